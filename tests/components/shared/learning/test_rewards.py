"""Each reward by table-driven cases, and the orchestrator's order, schedule and log."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from components.shared.learning.metrics import temporal_iou
from components.shared.learning.rewards.coherence import CoherenceReward
from components.shared.learning.rewards.curiosity import CuriosityReward, Novelty
from components.shared.learning.rewards.format import FormatReward
from components.shared.learning.rewards.orchestrator import Orchestrator, Weight
from components.shared.learning.rewards.scored import RolloutBatch
from components.shared.learning.rewards.task import TaskReward, above_constant, best_constant_segment
from components.shared.runtime.errors import ConfigError

RIGHT, WRONG = {"value": "diagonal"}, {"value": "checker"}


def values(reward: Any, *episodes: Any, groups: list[int] | None = None) -> list[float]:
    batch = RolloutBatch(episodes, groups or [0] * len(episodes))
    return [item.value for item in reward.score(batch)]


# task


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(RIGHT, 1.0), (WRONG, 0.1), ({"value": "purple"}, 0.0), ({"operation": "Picking"}, 0.0), (None, 0.0)],
)
def test_closeup_pays_a_tenth_for_a_choice_and_the_rest_for_the_truth(make: Any, answer: Any, expected: float) -> None:
    assert values(TaskReward(), make.episode(answer)) == pytest.approx([expected])


OPERATION = {"operation": "Picking", "start_s": 1.0, "end_s": 3.0, "next_operation": "Scan Label"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 1.0),
        ({"operation": "Scan Label"}, 0.1 + 0.9 * 0.5),
        ({"next_operation": None}, 0.1 + 0.9 * 0.8),
        ({"start_s": 1.0, "end_s": 2.0}, 0.1 + 0.9 * (0.7 + 0.3 * 0.5)),
        ({"start_s": "soon"}, 0.9 * 0.7),
        ({"start_s": float("nan")}, 0.9 * 0.7),
        ({"start_s": 3.0, "end_s": 1.0}, 0.1 + 0.9 * 0.7),
    ],
)
def test_operation_parts_add_up(make: Any, changes: dict[str, Any], expected: float) -> None:
    asked = make.question("operation")
    got = values(TaskReward(), make.episode({**OPERATION, **changes}, question=asked))
    assert got == pytest.approx([expected])


def test_the_constant_segment_earns_nothing_and_better_ones_earn_the_rest() -> None:
    truth, constant = (1.0, 3.0), (0.0, 4.0)
    assert above_constant(constant, truth, constant) == 0.0
    assert above_constant((4.0, 5.0), truth, constant) == 0.0
    assert above_constant(truth, truth, constant) == 1.0
    assert above_constant((1.0, 3.5), truth, constant) == pytest.approx((0.8 - 0.5) / 0.5)
    assert above_constant(truth, truth, truth) == 0.0


def test_a_policy_that_always_says_the_constant_gets_no_segment_reward(make: Any) -> None:
    """What made the first prototype collapse."""
    truths = [{"start_s": s, "end_s": e} for s, e in [(0.0, 5.0), (0.0, 4.0), (1.0, 5.0), (0.5, 2.0)]]
    constant = best_constant_segment(truths)
    reward = TaskReward(constant=constant)
    assert constant is not None
    for truth in truths:
        asked = make.question("operation", truth={**OPERATION, **truth})
        given = {**OPERATION, "start_s": constant[0], "end_s": constant[1]}
        assert reward.answer_score(asked, given).why["segment"] == 0.0


def test_best_constant_segment_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    truths = [(round(s, 1), round(s + d, 1)) for s, d in zip(rng.uniform(0, 2, 9), rng.uniform(0.3, 3, 9))]
    best = max(
        ((a / 10, b / 10) for a in range(51) for b in range(a + 1, 51)),
        key=lambda segment: sum(temporal_iou(segment, truth) for truth in truths),
    )
    got = best_constant_segment([{"start_s": s, "end_s": e} for s, e in truths])
    assert got is not None
    assert sum(temporal_iou(got, t) for t in truths) == pytest.approx(sum(temporal_iou(best, t) for t in truths))
    assert best_constant_segment([{"value": "diagonal"}]) is None


# curiosity


def test_bonus_is_paid_to_right_rollouts_that_looked_while_the_group_rarely_does(make: Any) -> None:
    looked_right, looked_wrong = make.episode(RIGHT, [make.call()]), make.episode(WRONG, [make.call()])
    others = [make.episode(RIGHT)] * 8
    got = values(CuriosityReward(alpha=0.5, target_rate=0.3), looked_right, looked_wrong, *others)
    assert got[0] == pytest.approx(0.5 * (0.3 - 0.2))
    assert got[1:] == [0.0] * 9


def test_no_bonus_at_or_above_the_target_rate(make: Any) -> None:
    batch = [make.episode(RIGHT, [make.call()])] * 3 + [make.episode(RIGHT)] * 7
    assert values(CuriosityReward(), *batch) == [0.0] * 10


def test_each_call_past_the_first_is_charged_also_on_a_wrong_answer(make: Any) -> None:
    many = [make.call(), make.call((250, 0, 500, 250)), make.call((500, 0, 750, 250))]
    got = values(CuriosityReward(beta=0.05), make.episode(RIGHT, many), make.episode(WRONG, many))
    assert got == pytest.approx([-0.1, -0.1])


def test_a_forced_rollout_does_not_count_in_the_rate(make: Any) -> None:
    forced = make.episode(RIGHT, [make.call(forced=True)], forced=True)
    got = values(CuriosityReward(alpha=0.5, target_rate=0.3), *[make.episode(WRONG)] * 2, forced)
    assert got[2] == pytest.approx(0.15)


def test_rates_are_per_group(make: Any) -> None:
    looked, not_looked = make.episode(RIGHT, [make.call()]), make.episode(RIGHT)
    got = values(CuriosityReward(alpha=1.0), looked, looked, *[not_looked] * 9, looked, groups=[0, 0] + [1] * 10)
    assert got[:2] == [0.0, 0.0]
    assert got[11] == pytest.approx(0.3 - 0.1)


def test_novelty_is_one_at_first_zero_for_the_same_crop_and_remembers_no_more_than_told(make: Any) -> None:
    embed = lambda images: np.stack([image[0, 0].astype(float) for image in images])
    red, green = np.full((4, 4, 3), (9, 0, 0), np.uint8), np.full((4, 4, 3), (0, 9, 0), np.uint8)
    novelty = Novelty(embed, memory=2)
    looked = lambda image: make.episode(RIGHT, [make.call(image=image)])
    assert novelty.score([looked(red), make.episode(RIGHT)]) == [1.0, 0.0]
    assert novelty.score([looked(red), looked(green)]) == pytest.approx([0.0, 1.0])
    assert novelty.score([looked(green), looked(green)]) == pytest.approx([0.0, 0.0])
    assert novelty.seen is not None
    assert novelty.seen.shape == (2, 3)
    assert novelty.score([looked(red)]) == pytest.approx([1.0])


# coherence and format


def test_coherence_cases(make: Any) -> None:
    far = make.call((500, 500, 750, 750))
    cases = [
        ("no calls", [], 1.0),
        ("two regions", [make.call(), far], 1.0),
        ("same region twice", [make.call(), make.call()], 0.5),
        ("nearly the same region", [make.call(), make.call((0, 0, 240, 250))], 0.5),
        ("same region of another frame", [make.call(), make.call(frame=3)], 1.0),
        ("a failed call", [make.call(ok=False), far], 0.5),
        ("thought names this frame", [make.call(thought="Look at frame 0 with ZOOM_IN.")], 1.0),
        ("thought names another frame", [make.call(thought="The tag is best seen in frame 7.")], 0.0),
        ("everything wrong counts once per call at most", [make.call(ok=False, thought="frame 7")], 0.0),
    ]
    for name, calls, expected in cases:
        assert CoherenceReward().calls_score(calls).value == pytest.approx(expected), name


def test_format_wants_an_answer_and_strict_messages(make: Any) -> None:
    got = values(
        FormatReward(),
        make.episode(RIGHT, [make.call()]),
        make.episode(RIGHT, [make.call()], well_formed=(True, False)),
        make.episode(None, [make.call()]),
        make.episode(None, well_formed=()),
    )
    assert got == [1.0, 0.5, 0.0, 0.0]


# orchestrator


def orchestrator(**options: Any) -> Orchestrator:
    weights = {"task": Weight(1.0, 1.0), "curiosity": Weight(0.4, 0.0), "format": Weight(0.2, 0.2)}
    return Orchestrator([TaskReward(), CuriosityReward(), FormatReward()], weights, **options)


def test_a_failed_last_operation_is_worth_nothing_but_keeps_its_charge(make: Any) -> None:
    failed = make.episode(RIGHT, [make.call(), make.call(ok=False)])
    recovered = make.episode(RIGHT, [make.call(ok=False), make.call()])
    rewarded = orchestrator().reward(RolloutBatch([failed, recovered], [0, 0]), progress=0.0)
    assert rewarded.components["task"].tolist() == [0.0, 1.0]
    assert rewarded.components["format"].tolist() == [0.0, 1.0]
    assert rewarded.components["curiosity"].tolist() == pytest.approx([-0.05, -0.05])


def test_weights_follow_the_schedule(make: Any) -> None:
    weighing = orchestrator()
    assert [weighing.weights_at(p)["curiosity"] for p in (-1, 0, 0.5, 1, 2)] == pytest.approx([0.4, 0.4, 0.2, 0, 0])


def test_saturated_components_fade_but_never_the_task(make: Any) -> None:
    weighing = orchestrator(adaptive=True)
    batch = RolloutBatch([make.episode(RIGHT), make.episode(RIGHT)], [0, 0])
    assert weighing.weights_at(0.0)["format"] == 0.2
    weighing.reward(batch, progress=0.0)
    assert weighing.weights_at(0.0) == pytest.approx({"task": 1.0, "curiosity": 0.4, "format": 0.0})


def test_advantages_are_the_weighted_sum_of_group_scores_and_dead_groups_are_known(make: Any) -> None:
    episodes = [make.episode(RIGHT), make.episode(WRONG), make.episode(WRONG), make.episode(WRONG)]
    rewarded = orchestrator().reward(RolloutBatch(episodes, [0, 0, 1, 1]), progress=0.0)
    assert rewarded.advantages.tolist() == pytest.approx([1.0, -1.0, 0.0, 0.0])
    assert rewarded.alive.tolist() == [True, False]


def test_every_component_and_its_reason_is_logged_as_json(make: Any) -> None:
    episodes = [make.episode(RIGHT, [make.call()]), make.episode(WRONG)]
    rewarded = orchestrator().reward(RolloutBatch(episodes, [0, 0]), progress=0.0)
    first = json.loads(json.dumps(rewarded.records[0], allow_nan=False))
    assert set(first["rewards"]) == {"task", "curiosity", "format"}
    assert first["rewards"]["task"] == {"value": 1.0, "valid": True, "correct": True}
    assert first["advantage"] > 0 > rewarded.records[1]["advantage"]


def test_a_reward_without_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match="which weight is whose"):
        Orchestrator([TaskReward()], {"tsak": Weight(1, 1)})

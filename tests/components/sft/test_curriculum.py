import json

import pytest

from components.sft.config import CurriculumConfig
from components.sft.curriculum import CurriculumState, Decision, observe, smoothed, start

CONFIG = CurriculumConfig(
    exit_scores=(0.8, 0.9), window=3, patience=2, cooldown=3, tolerance=0.02, min_delta=0.0, max_evaluations=0
)
S, A, R = Decision.STAY, Decision.ADVANCE, Decision.ROLLBACK


def follow(scores, config=CONFIG, state=None):
    """Decisions along a series of scores, and the last state."""
    state = state or start((10, 10, 10), enabled=True)
    decisions = []
    for score in scores:
        state, decision = observe(state, score, config)
        decisions.append(decision)
    return decisions, state


CASES = {
    "keeps a stage that still improves": ([0.1, 0.2, 0.3, 0.4, 0.5], [S] * 5, 0),
    "the exit score must be reached by the average, not by one lucky score": ([0.5, 0.6, 0.95], [S] * 3, 0),
    "advances when the average reaches the exit score": ([0.8, 0.8, 0.8], [S, S, A], 1),
    "a full window is needed": ([0.99, 0.99], [S, S], 0),
    "advances when patience is used up": ([0.5, 0.4, 0.4], [S, S, A], 1),
    "nothing is decided during the cooldown": ([0.8, 0.8, 0.8, 0.99, 0.99], [S, S, A, S, S], 1),
    "stays when the cooldown ends as good as before": ([0.8, 0.8, 0.8, 0.7, 0.8, 0.9], [S, S, A, S, S, S], 1),
    "forgives what is within the tolerance": ([0.8, 0.8, 0.8, 0.785, 0.785, 0.785], [S, S, A, S, S, S], 1),
    "rolls back when the cooldown ends worse": ([0.8, 0.8, 0.8, 0.7, 0.7, 0.7], [S, S, A, S, S, R], 0),
    "a refused stage is not tried again": (
        [0.8, 0.8, 0.8, 0.7, 0.7, 0.7, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9], [S, S, A, S, S, R, S, S, S, S, S, S], 0
    ),
    "goes through to the last stage": (
        [0.9, 0.9, 0.9, 0.95, 0.95, 0.95, 0.95, 0.9, 0.9, 0.9, 0.9, 0.9],
        [S, S, A, S, S, S, A, S, S, R, S, S], 1
    ),
    "never leaves the last stage": ([0.9] * 3 + [0.95] * 4 + [0.95] * 9, [S, S, A, S, S, S, A] + [S] * 9, 2),
}  # fmt: skip


@pytest.mark.parametrize("scores, expected, stage", CASES.values(), ids=CASES.keys())
def test_decisions(scores, expected, stage):
    decisions, state = follow(scores)
    assert decisions == expected
    assert state.stage == stage


def test_a_stage_ends_when_its_evaluations_are_used_up():
    config = CONFIG.model_copy(update={"max_evaluations": 4, "cooldown": 1})
    decisions, state = follow([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75], config)
    assert decisions == [S, S, S, A, S, S, S, A]
    assert state.stage == 2


def test_without_a_cooldown_the_next_evaluation_judges():
    config = CONFIG.model_copy(update={"cooldown": 0})
    decisions, state = follow([0.8, 0.8, 0.8, 0.5], config)
    assert decisions == [S, S, A, R]
    assert state.stage == 0


@pytest.mark.parametrize(
    "counts, enabled, stage, last",
    [((5, 5, 5), True, 0, 2), ((0, 5, 5), True, 1, 2), ((5, 5, 0), True, 0, 1), ((5, 0, 0), True, 0, 0),
     ((5, 5, 5), False, 2, 2), ((0, 0, 0), True, 0, 2)],
)  # fmt: skip
def test_start(counts, enabled, stage, last):
    state = start(counts, enabled=enabled)
    assert (state.stage, state.last) == (stage, last)


def test_a_single_stage_never_moves():
    decisions, _ = follow([0.9] * 10, state=start((5, 0, 0), enabled=True))
    assert set(decisions) == {S}


def test_the_state_survives_json_at_every_step():
    scores = [0.8, 0.8, 0.8, 0.7, 0.7, 0.7, 0.9, 0.9, 0.9]
    _, straight = follow(scores)
    state = start((10, 10, 10), enabled=True)
    for score in scores:
        state = CurriculumState.from_json(json.loads(json.dumps(state.to_json(), allow_nan=False)))
        state, _ = observe(state, score, CONFIG)
    assert state == straight
    assert [move[1] for move in state.moves] == ["advance", "rollback"]


def test_smoothing_is_the_mean_of_the_last_three():
    assert smoothed([9.0, 1.0, 2.0, 3.0], 3) == 2.0
    assert smoothed([4.0], 3) == 4.0

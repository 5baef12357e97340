"""One update and many on the toy world: it learns to look, masks what was forced, and repeats itself exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from components.rft.config import RftConfig
from components.rft.rollouts import LOOK, ZOOM, roll_out
from components.rft.train import build_orchestrator
from components.rft.update import Learner, assign, learn, update
from components.rft.validation import validate
from components.shared.learning.rewards.curiosity import operation_rate
from components.shared.operations import default_registry
from components.shared.policy.prompts import call_text
from components.shared.runtime.errors import StepError
from components.shared.samples.trajectory import Call

CONFIG = RftConfig(num_groups=16, group_size=8, learning_rate=0.1, kl_weight=0.0, max_turns=3, steps=40)


def train(policy: Any, tasks: Any, config: RftConfig, steps: int) -> list[dict[str, float]]:
    learner = Learner.start(policy, config)
    orchestrator = build_orchestrator(config, [], None)
    registry = default_registry(config.operations)
    return [
        update(learner, tasks, registry, orchestrator, config, step=step, progress=step / steps).figures
        for step in range(steps)
    ]


def test_it_learns_to_look_at_the_right_place_and_read_the_crop(toy: Any, toy_tasks: Any) -> None:
    policy = toy.policy()
    registry = default_registry(CONFIG.operations)
    before = validate(policy, toy_tasks, registry, CONFIG).figures
    figures = train(policy, toy_tasks, CONFIG, 40)
    after = validate(policy, toy_tasks, registry, CONFIG).figures
    assert before["sampled_closeup_accuracy"] < 0.6
    assert after["greedy_closeup_accuracy"] == 1.0
    assert after["greedy_closeup_right_look"] == 1.0
    assert after["sampled_closeup_accuracy"] > 0.9
    assert figures[-1]["entropy"] < figures[0]["entropy"]
    assert figures[-1]["dropped_groups"] >= figures[0]["dropped_groups"]


def test_where_to_look_and_how_to_read_it_is_learned_at_a_rate_of_zero_only_where_looks_are_forced(
    toy: Any, toy_tasks: Any
) -> None:
    """The known failure of curiosity: at a rate of 0 nobody can earn the bonus, and looking is not learned."""
    where, read = {}, {}
    for force in (True, False):
        policy = toy.policy(look=-4.0)
        figures = train(policy, toy_tasks, CONFIG.model_copy(update={"force_operations": force}), 40)
        assert figures[0]["operation_rate"] < 0.02
        assert (figures[0]["num_forced"] > 12) is force
        table = policy.table.detach()
        where[force] = float(table[:4, :4].softmax(-1).diagonal().mean())
        read[force] = float((table[5].softmax(-1)[4] + table[6].softmax(-1)[5]) / 2)
    assert where[True] > 0.8
    assert read[True] > 0.9
    assert where[False] < 0.4
    assert read[False] < 0.6


def test_forced_tokens_get_no_gradient(toy: Any, toy_tasks: Any) -> None:
    policy = toy.policy(look=-30.0)
    registry = default_registry(CONFIG.operations)
    batch = roll_out(policy, toy_tasks[:2], registry, CONFIG, seed=0)
    forced = [episode for episode in batch.episodes if episode.forced]
    assert len(forced) == 2
    assert list(batch.groups[-2:]) == [0, 1]
    assert operation_rate(batch.episodes) == 0.0
    assert all(episode.calls[0].ok and episode.calls[0].forced for episode in forced)
    logprobs, mask = policy.token_logprobs([episode.messages for episode in forced])
    (logprobs * mask).sum().backward()
    assert policy.table.grad is not None
    assert not policy.table.grad[:4, 4:].any(), "whether to look was scored, not only where"
    assert policy.table.grad[:4, :4].any()


def test_the_forced_beginning_is_that_of_a_call_as_it_is_written() -> None:
    call = Call(name=ZOOM, arguments={"frame": 3, "box": [0, 0, 250, 250]})
    assert call_text(call).startswith(LOOK)


def test_the_same_update_twice_gives_the_same_weights(toy: Any, toy_tasks: Any) -> None:
    config = CONFIG.model_copy(update={"kl_weight": 0.02})
    tables = []
    for micro_batch in (64, 64, 7):
        policy = toy.policy()
        train(policy, toy_tasks, config.model_copy(update={"micro_batch": micro_batch}), 3)
        tables.append(policy.table.detach().clone())
    assert torch.equal(tables[0], tables[1])
    assert torch.allclose(tables[0], tables[2], atol=5e-3), "micro-batches change memory only"


def test_the_kl_term_keeps_the_policy_near_its_reference(toy: Any, toy_tasks: Any) -> None:
    moved = {}
    for weight in (0.0, 5.0):
        policy = toy.policy()
        start = policy.table.detach().log_softmax(-1).clone()
        train(policy, toy_tasks, CONFIG.model_copy(update={"kl_weight": weight}), 15)
        now = policy.table.detach().log_softmax(-1)
        moved[weight] = float((start.exp() * (start - now)).sum(-1).mean())
    assert moved[5.0] < 0.25 * moved[0.0]


def test_the_reference_is_the_policy_that_came_in_and_the_weights_come_back(toy: Any) -> None:
    policy = toy.policy()
    learner = Learner.start(policy, CONFIG.model_copy(update={"kl_weight": 0.1}))
    came_in = policy.table.detach().clone()
    assign([policy.table], [came_in + 1.5])
    with pytest.raises(RuntimeError, match="inside"), learner.as_reference():
        assert torch.equal(policy.table, came_in)
        raise RuntimeError("inside")
    assert torch.equal(policy.table, came_in + 1.5)


def test_nothing_to_learn_leaves_the_weights_alone(toy: Any) -> None:
    policy = toy.policy()
    start = policy.table.detach().clone()
    figures = learn(Learner.start(policy, CONFIG), [], torch.zeros(0), CONFIG, sampled=[])
    assert figures["num_tokens"] == 0.0
    assert torch.equal(policy.table, start)


def test_figures_and_rollout_records_are_complete(toy: Any, toy_tasks: Any) -> None:
    learner = Learner.start(toy.policy(), CONFIG.model_copy(update={"kl_weight": 0.02}))
    orchestrator = build_orchestrator(CONFIG, [], None)
    done = update(learner, toy_tasks, default_registry(CONFIG.operations), orchestrator, CONFIG, step=3, progress=0.0)
    wanted = (
        "reward_task reward_curiosity reward_coherence reward_format operation_rate kl entropy clip_share "
        "dropped_groups tokens_a_rollout accuracy_closeup sampler_gap num_forced"
    )
    assert set(wanted.split()) <= done.figures.keys()
    assert done.figures["sampler_gap"] < 1e-6
    assert len(done.rollouts) == 128 + done.figures["num_forced"]
    assert done.rollouts[0]["step"] == 3
    assert set(done.rollouts[0]["rewards"]) == {"task", "curiosity", "coherence", "format"}


def test_an_update_that_is_no_number_changes_no_weight(toy: Any, toy_tasks: Any) -> None:
    config = CONFIG.model_copy(update={"kl_weight": 0.02})
    policy = toy.policy()
    learner = Learner.start(policy, config)
    assert learner.reference is not None
    learner.reference[0].fill_(float("nan"))
    before = policy.table.detach().clone()
    orchestrator, registry = build_orchestrator(config, [], None), default_registry(config.operations)
    with pytest.raises(StepError, match="the training has diverged"):
        update(learner, toy_tasks, registry, orchestrator, config, step=0, progress=0.0)
    assert torch.equal(policy.table.detach(), before)

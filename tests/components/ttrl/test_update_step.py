"""Advantages of a group, and one real update of a tiny adapter."""

from __future__ import annotations

import numpy as np
import pytest

from components.ttrl.config import TtrlConfig

A, B, C = ({"value": name} for name in "abc")


def test_advantages_of_a_labelled_group():
    from components.ttrl.update_step import group_advantages

    advantages, counted, mean = group_advantages([A, A, A, B, None, C], A, (), (C,), weight=0.5)
    assert counted.tolist() == [True] * 5 + [False], "the neutral answer teaches nothing"
    assert mean == pytest.approx(3 / 5)
    assert advantages[:5].sum() == pytest.approx(0)
    assert (advantages[:3] > 0).all()
    assert (advantages[3:5] < 0).all()
    assert advantages[5] == 0
    assert np.std(advantages[:5]) == pytest.approx(0.5), "the weight"


@pytest.mark.parametrize("answers", [[A, A, A], [B, B, None], [A, A, C]])
def test_groups_without_spread_teach_nothing(answers):
    from components.ttrl.update_step import group_advantages

    advantages, counted, _ = group_advantages(answers, A, (), (C,), weight=1.0)
    assert not counted.any()
    assert not advantages.any()


def test_negatives_alone_only_push_away():
    from components.ttrl.update_step import group_advantages

    advantages, counted, _ = group_advantages([A, B, None, C], None, (C,), (A, B), weight=0.4)
    assert counted.tolist() == [False, False, False, True]
    assert advantages.tolist() == [0, 0, 0, -0.4]


@pytest.fixture(scope="module")
def learner(promoted):
    from components.ttrl.model import canary_tasks, load_promoted

    config = TtrlConfig(group_size=8, update_steps=4, temperature=1.0, ema_decay=0.0)
    model = load_promoted(promoted, config)
    return model, config, canary_tasks(model, 100)


def items(tasks, label, count=3):
    from components.ttrl.update_step import Item

    return [Item(f"e{n}", task, label, (), (), 1.0, 0, 0) for n, task in enumerate(tasks[:count])]


def probability(model, tasks, label):
    """Mean probability of writing exactly the label as the answer."""
    import torch

    from components.shared.policy.interface import Message
    from components.shared.policy.prompts import answer_text

    asked = [(*task.conversation, Message("assistant", answer_text(label))) for task in tasks[:3]]
    with torch.no_grad():
        logprobs, mask = model.policy.token_logprobs(asked)
    return float((logprobs * mask).sum(1).exp().mean())


def test_an_update_raises_the_labels_probability_and_changes_the_digest(learner):
    from components.shared.policy.adapters import tensors_digest
    from components.ttrl.update_step import learn, weight_change

    model, config, tasks = learner
    anchor = model.anchor_state()
    model.policy.set_adapter_state(anchor)
    label = {"operation": "Scan Label", "start_s": 0.0, "end_s": 5.0, "next_operation": None}
    before = probability(model, tasks, label)
    for seed in range(4):
        outcome = learn(model, items(tasks, label), anchor, config, learning_rate=3e-3, seed=seed)
        assert outcome.figures["num_learned"] > 0
        assert outcome.figures["grad_norm"] > 0
    assert probability(model, tasks, label) > 1.15 * before > 0
    state = model.policy.adapter_state()
    assert tensors_digest(state) != tensors_digest(anchor)
    assert weight_change(anchor, state) > 0
    assert outcome.num_rollouts == 24
    assert [visit[:2] for visit in outcome.visits] == [("e0", 1), ("e1", 1), ("e2", 1)]


def test_the_same_update_twice_is_the_same(learner):
    from components.shared.policy.adapters import tensors_digest
    from components.ttrl.update_step import learn

    model, config, tasks = learner
    anchor = model.anchor_state()
    digests = set()
    label = {"operation": "Picking", "start_s": 0.0, "end_s": 5.0, "next_operation": None}
    for _ in range(2):
        model.policy.set_adapter_state(anchor)
        learn(model, items(tasks, label), anchor, config, learning_rate=1e-3, seed=1)
        digests.add(tensors_digest(model.policy.adapter_state()))
    assert len(digests) == 1


def test_nothing_to_learn_changes_nothing(learner):
    from components.shared.policy.adapters import tensors_digest
    from components.ttrl.update_step import learn

    model, config, tasks = learner
    anchor = model.anchor_state()
    model.policy.set_adapter_state(anchor)
    outcome = learn(model, items(tasks, {"value": "vertical"}), anchor, config, learning_rate=1.0, seed=1)
    assert outcome.figures == {"mean_reward": 0.0, "dropped_groups": 3.0, "num_learned": 0.0}
    assert tensors_digest(model.policy.adapter_state()) == tensors_digest(anchor)


def test_the_average_lags_behind_the_last_step(learner):
    from components.ttrl.update_step import learn, weight_change

    model, config, tasks = learner
    anchor = model.anchor_state()
    label = {"operation": "Picking", "start_s": 0.0, "end_s": 5.0, "next_operation": None}
    distance = {}
    for decay in (0.0, 0.9):
        model.policy.set_adapter_state(anchor)
        settings = config.model_copy(update={"ema_decay": decay})
        learn(model, items(tasks, label), anchor, settings, learning_rate=1e-2, seed=2)
        distance[decay] = weight_change(anchor, model.policy.adapter_state())
    assert 0 < distance[0.9] < distance[0.0]

"""One adapter update from stored experiences: fresh rollouts, majority reward, GRPO against a frozen anchor.

Role: the arithmetic of learning while serving; knows neither processes nor the buffer. For each experience the policy
answers again (G rollouts on the stored frames); a rollout that gives the same vote as the pseudo-label is rewarded 1,
any other vote and an abstention 0; one that repeats an answer between the gate's thresholds is left out of the loss:
nothing is learned about it. Source: TTRL, with SCRL's and TTRL-Guard's fixes.

Notation: G rollouts a group, r reward, A advantage, w the lesson's weight times the visit's.

    with a pseudo-label     A = w · zscore(r) over the group's counted rollouts
    negatives alone         A = -w for rollouts that repeat one, all others left out

Deviations: rollouts are sampled at the serving temperature, ratios are scored at temperature 1 (starting at 1, because
the old log-probabilities are those of the first pass); the optimiser starts afresh in each update, so that an
update depends on nothing but the weights, the batch and the seed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.shared.learning.episode import Episode, Task, run_episodes
from components.shared.learning.grpo import MIN_SPREAD, grpo_loss
from components.shared.policy.interface import Conversation
from components.ttrl.config import TtrlConfig
from components.ttrl.gating import is_contested, visit_weight
from components.ttrl.model import PromotedModel
from components.ttrl.voting import Answer, same_vote, vote

log = logging.getLogger(__name__)
State = dict[str, Tensor]


@dataclass(frozen=True)
class Item:
    """One experience to learn from, ready to be asked again."""

    id: str
    task: Task
    label: Answer | None
    negatives: tuple[Answer, ...]
    neutral: tuple[Answer, ...]
    weight: float
    visits: int
    flips: int


@dataclass
class Outcome:
    """What an update did.

    Attributes:
        figures: loss, kl, grad_norm, mean_reward, dropped_groups, num_learned.
        visits: (id, visits, flips, mean reward) of each experience, to be written back.
        num_rollouts: Fresh rollouts sampled.
    """

    figures: dict[str, float] = field(default_factory=dict)
    visits: list[tuple[str, int, int, float]] = field(default_factory=list)
    num_rollouts: int = 0


def group_advantages(
    answers: Sequence[Answer | None],
    label: Answer | None,
    negatives: Sequence[Answer],
    neutral: Sequence[Answer],
    weight: float,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Advantages of one group.

    Returns:
        A (G,), which rollouts count (G,) bool, and the mean reward of the counted ones (the share that agrees with the
        label). No rollout counts where the group teaches nothing.
    """
    if label is None:
        repeats = np.array([_among(answer, negatives) for answer in answers])
        return np.where(repeats, -weight, 0.0), repeats, 0.0
    agrees = np.array([_among(answer, [label]) for answer in answers])
    counted = agrees | ~np.array([_among(answer, neutral) for answer in answers])
    rewards = agrees[counted].astype(np.float64)
    mean, spread = float(rewards.mean()) if len(rewards) else 0.0, float(rewards.std()) if len(rewards) else 0.0
    if spread <= MIN_SPREAD:
        return np.zeros(len(answers)), np.zeros(len(answers), bool), mean
    return np.where(counted, weight * (agrees - mean) / spread, 0.0), counted, mean


def _among(answer: Answer | None, others: Sequence[Answer]) -> bool:
    return answer is not None and any(same_vote(answer, other) for other in others)


def learn(
    model: PromotedModel, items: Sequence[Item], anchor: State, config: TtrlConfig, *, learning_rate: float, seed: int
) -> Outcome:
    """Train the model's adapter in place on one batch; its weights afterwards are the running average."""
    policy = model.policy
    outcome = Outcome()
    tasks = [item.task for item in items for _ in range(config.group_size)]
    episodes = run_episodes(
        policy,
        tasks,
        model.registry,
        temperature=config.temperature,
        max_turns=config.max_turns,
        max_new_tokens=config.max_new_tokens,
        seed=seed,
    )
    outcome.num_rollouts = len(episodes)
    conversations: list[Conversation] = []
    advantages: list[float] = []
    rewards: list[float] = []
    dropped = 0
    for number, item in enumerate(items):
        group = episodes[number * config.group_size : (number + 1) * config.group_size]
        learned, mean = _group(model, item, group, outcome)
        rewards.append(mean)
        dropped += not learned
        conversations += [group[index].messages for index, _ in learned]
        advantages += [advantage for _, advantage in learned]
    outcome.figures = {
        "mean_reward": float(np.mean(rewards)) if rewards else 0.0,
        "dropped_groups": float(dropped),
        "num_learned": float(len(conversations)),
    }
    if conversations:
        outcome.figures |= _optimise(model, conversations, torch.tensor(advantages), anchor, config, learning_rate)
    return outcome


def _group(
    model: PromotedModel, item: Item, episodes: Sequence[Episode], outcome: Outcome
) -> tuple[list[tuple[int, float]], float]:
    """(rollouts to learn from with their advantages, mean reward) of one experience; notes the visit."""
    answers = [model.answer_of(episode) for episode in episodes]
    ballot = vote(answers)
    flipped = bool(item.label and ballot.winner and not same_vote(ballot.winner.answer, item.label))
    flips = item.flips + flipped
    weight = item.weight * visit_weight(flipped=flipped, share=ballot.top_share)
    advantages, counted, mean = group_advantages(answers, item.label, item.negatives, item.neutral, weight)
    outcome.visits.append((item.id, item.visits + 1, flips, mean))
    if is_contested(num_flips=flips, num_visits=item.visits + 1, share=ballot.top_share):
        return [], mean
    whole = [all(generation.finished for generation in episode.generations) for episode in episodes]
    return [(i, float(advantages[i])) for i in range(len(episodes)) if counted[i] and whole[i]], mean


def _optimise(
    model: PromotedModel,
    conversations: Sequence[Conversation],
    advantages: Tensor,
    anchor: State,
    config: TtrlConfig,
    learning_rate: float,
) -> dict[str, float]:
    """The optimiser steps; leaves the running average of the weights in the policy."""
    policy = model.policy
    size = config.micro_batch
    parts = [slice(start, start + size) for start in range(0, len(conversations), size)]
    current = policy.adapter_state()
    policy.set_adapter_state(anchor)
    with torch.no_grad():
        reference = [policy.token_logprobs(conversations[part])[0] for part in parts]
    policy.set_adapter_state(current)
    parameters = policy.trainable_parameters()
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    average = [parameter.detach().clone() for parameter in parameters]
    old: list[Tensor] = []
    figures: dict[str, float] = {}
    num_tokens = 0.0
    for step in range(config.update_steps):
        optimiser.zero_grad(set_to_none=True)
        losses = []
        if step == 0:
            with torch.no_grad():
                first = [policy.token_logprobs(conversations[part]) for part in parts]
            old = [logprobs for logprobs, _ in first]
            num_tokens = float(sum(mask.sum() for _, mask in first))
        for index, part in enumerate(parts):
            logprobs, mask = policy.token_logprobs(conversations[part])
            loss = grpo_loss(
                logprobs,
                old[index],
                advantages[part].to(logprobs),
                mask,
                clip_low=config.clip_ratio,
                clip_high=config.clip_ratio,
                reference=reference[index],
                kl_weight=config.kl_weight,
                num_tokens=num_tokens,
            )
            loss.loss.backward()
            losses.append(loss)
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        if not torch.isfinite(norm):
            policy.set_adapter_state(current)
            return {"grad_norm_not_finite": 1.0}
        optimiser.step()
        with torch.no_grad():
            for kept, parameter in zip(average, parameters, strict=True):
                kept.mul_(config.ema_decay).add_(parameter, alpha=1 - config.ema_decay)
        figures = {
            "loss": float(sum(part.loss.detach() for part in losses)),
            "kl": float(sum(part.kl for part in losses)) / max(num_tokens, 1.0),
            "clip_share": float(sum(part.clipped for part in losses)) / max(num_tokens, 1.0),
            "grad_norm": float(norm),
            "num_tokens": num_tokens,
        }
    with torch.no_grad():
        for kept, parameter in zip(average, parameters, strict=True):
            parameter.copy_(kept)
    return figures


def weight_change(before: State, after: State) -> float:
    """L2 norm of the difference of two adapters."""
    return float(sum((after[name].double() - before[name].double()).square().sum() for name in before)) ** 0.5


def probe(model: PromotedModel, tasks: Sequence[Task], config: TtrlConfig) -> list[Any]:
    """Greedy answers to the canary questions, in order; None where there is no usable answer."""
    episodes = run_episodes(
        model.policy,
        tasks,
        model.registry,
        temperature=0.0,
        max_turns=config.max_turns,
        max_new_tokens=config.max_new_tokens,
        seed=0,
    )
    return [model.answer_of(episode) for episode in episodes]

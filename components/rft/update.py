"""One GRPO update: rollouts of a step's questions, rewards, and the optimiser steps on them.

Guarantees: forced tokens and rollouts cut by the token limit are never learned from; groups without spread are left
out and counted; the same policy weights, tasks and seed give the same update. The reference of the KL term is the
policy as it came in, whatever was resumed.
Not guaranteed: an exact ratio where the sampling temperature is not 1 (the loss scores tokens at temperature 1).

In a group of processes each asks its share of the questions and learns from its own rollouts; rewards are computed by
every rank from the rollouts of all, and gradients are summed before the step, so weights, running means and what is
dropped are equal everywhere.

The old log-probabilities are those of the first pass, before any optimiser step of this batch: equal to the sampler's
up to rounding, without its cache's rounding. The mean absolute difference to the sampler's own is logged
(`sampler_gap`): it is near 0, or sampling and scoring disagree about the conversation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.rft.config import RftConfig
from components.rft.rollouts import everyones, own_seed, roll_out
from components.shared.learning.episode import Episode, Task
from components.shared.learning.finite import check_finite
from components.shared.learning.group import Group
from components.shared.learning.grpo import LossParts, grpo_loss
from components.shared.learning.rewards.curiosity import operation_rate
from components.shared.learning.rewards.orchestrator import Orchestrator, Rewarded
from components.shared.learning.rewards.scored import RolloutBatch
from components.shared.learning.rewards.task import is_correct
from components.shared.operations import Registry
from components.shared.policy.interface import Conversation, Policy


@dataclass(frozen=True)
class Updated:
    """What one update did: figures by name, and one record a rollout."""

    figures: dict[str, float]
    rollouts: list[dict[str, Any]] = field(repr=False)


@dataclass
class Learner:
    """A policy with its optimiser and its frozen reference.

    Attributes:
        policy: What is trained.
        optimizer: Over the policy's trainable parameters.
        reference: Copies of the parameters as they came in, None without a KL term.
        group: The processes that train together.
    """

    policy: Policy
    optimizer: torch.optim.Optimizer
    reference: list[Tensor] | None
    group: Group = field(default_factory=Group)

    @classmethod
    def start(cls, policy: Policy, config: RftConfig, group: Group | None = None) -> Learner:
        """A learner whose reference is the policy as it is now."""
        parameters = policy.trainable_parameters()
        optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
        reference = [parameter.detach().clone() for parameter in parameters] if config.kl_weight else None
        return cls(policy, optimizer, reference, group or Group())

    @contextlib.contextmanager
    def as_reference(self) -> Iterator[None]:
        """The policy with the reference's weights; the trained ones come back at the end."""
        assert self.reference is not None
        parameters = self.policy.trainable_parameters()
        current = [parameter.detach().clone() for parameter in parameters]
        try:
            assign(parameters, self.reference)
            yield
        finally:
            assign(parameters, current)


def assign(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy values into parameters in place."""
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def update(
    learner: Learner,
    tasks: Sequence[Task],
    registry: Registry,
    orchestrator: Orchestrator,
    config: RftConfig,
    *,
    step: int,
    progress: float,
) -> Updated:
    """Roll out, reward and learn from one batch of questions.

    Args:
        learner: Trained in place.
        tasks: One a group: this rank's share of the step's questions.
        registry: Executes operations.
        orchestrator: Rewards.
        config: Constants.
        step: Number of the update; seeds the sampling together with `config.seed`.
        progress: How far through training, 0..1.
    """
    seed = own_seed(int(np.random.default_rng([config.seed, step]).integers(2**31)), learner.group.rank)
    own = roll_out(learner.policy, tasks, registry, config, seed=seed)
    crops = bool(config.rewards.constants.novelty_weight)
    batch, mine = everyones(own, len(tasks), learner.group, crops=crops)
    rewarded = orchestrator.reward(batch, progress=progress)
    chosen = [
        (index, episode)
        for index, episode in zip(mine, own.episodes, strict=True)
        if rewarded.alive[batch.groups[index]] and all(generation.finished for generation in episode.generations)
    ]
    figures = figures_of(batch, rewarded)
    figures |= learn(
        learner,
        [episode.messages for _, episode in chosen],
        rewarded.advantages[[index for index, _ in chosen]].float(),
        config,
        sampled=[sampled_logprobs(episode) for _, episode in chosen],
    )
    return Updated(figures, [{"step": step, **record} for record in rewarded.records])


def sampled_logprobs(episode: Episode) -> list[float]:
    """The sampler's log-probabilities of an episode's tokens, in order."""
    return [logprob for generation in episode.generations for logprob in generation.logprobs]


def learn(
    learner: Learner,
    conversations: Sequence[Conversation],
    advantages: Tensor,
    config: RftConfig,
    *,
    sampled: Sequence[Sequence[float]],
) -> dict[str, float]:
    """The optimiser steps on one batch, of which this rank holds a part.

    Args:
        learner: Trained in place.
        conversations: N whole conversations, this rank's.
        advantages: (N,) float32.
        config: Constants.
        sampled: The sampler's log-probabilities of each conversation's learned tokens, in order.

    Returns:
        Figures of the last pass over all ranks: loss, KL, entropy, clip share, gradient norm, number of tokens.
    """
    group = learner.group
    (num_tokens,) = group.total(float(sum(len(logprobs) for logprobs in sampled)))
    if not num_tokens:
        return {"loss": 0.0, "kl": 0.0, "entropy": 0.0, "clip_share": 0.0, "grad_norm": 0.0, "num_tokens": 0.0}
    policy, slices = learner.policy, _slices(len(conversations), config.micro_batch)
    references: list[Tensor | None] = [None] * len(slices)
    if learner.reference is not None:
        with learner.as_reference(), torch.no_grad():
            references = [policy.token_logprobs(conversations[part])[0] for part in slices]
    parameters = policy.trainable_parameters()
    old: list[Tensor] = []
    gap = 0.0
    for epoch in range(config.epochs):
        learner.optimizer.zero_grad(set_to_none=True)
        parts: list[LossParts] = []
        for index, part in enumerate(slices):
            logprobs, mask = policy.token_logprobs(conversations[part])
            if epoch == 0:
                old.append(logprobs.detach())
                gap += _gap(logprobs.detach(), mask, sampled[part])
            loss = grpo_loss(
                logprobs,
                old[index],
                advantages[part].to(logprobs.device),
                mask,
                clip_low=config.clip_low,
                clip_high=config.clip_high,
                reference=references[index],
                kl_weight=config.kl_weight,
                num_tokens=num_tokens,
            )
            loss.loss.backward()
            parts.append(loss)
        group.sum_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        check_finite(float(norm), "the gradient's norm", "rft")
        learner.optimizer.step()
    measured = ("loss", "kl", "surprisal", "clipped")
    sums = [float(sum(getattr(part, name).detach() for part in parts)) for name in measured]
    loss_sum, kl, surprisal, clipped, gap = group.total(*sums, gap)
    return {
        "loss": loss_sum,
        "kl": kl / num_tokens,
        "entropy": surprisal / num_tokens,
        "clip_share": clipped / num_tokens,
        "grad_norm": float(norm),
        "num_tokens": num_tokens,
        "sampler_gap": gap / num_tokens,
    }


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _gap(logprobs: Tensor, mask: Tensor, sampled: Sequence[Sequence[float]]) -> float:
    """Sum over learned tokens of |scored - sampled log p|.

    The number of learned tokens must be the number sampled: anything else means that the conversation scored is not the
    one that was sampled.
    """
    total = 0.0
    for row, learned, expected in zip(logprobs, mask, sampled, strict=True):
        scored = row[learned > 0].double().cpu()
        assert len(scored) == len(expected), f"{len(scored)} tokens scored where {len(expected)} were sampled"
        total += float((scored - torch.tensor(expected, dtype=torch.float64)).abs().sum())
    return total


def figures_of(batch: RolloutBatch, rewarded: Rewarded) -> dict[str, float]:
    """What is logged of a batch of rollouts: reward parts, rates, lengths, dropped groups, accuracy by kind."""
    episodes = [episode for episode in batch.episodes if not episode.forced]
    figures = {f"reward_{name}": float(values.mean()) for name, values in rewarded.components.items()}
    figures |= {f"weight_{name}": weight for name, weight in rewarded.weights.items()}
    figures |= {
        "operation_rate": operation_rate(batch.episodes),
        "failed_rate": sum(episode.last_call_failed for episode in episodes) / len(episodes),
        "tokens_a_rollout": sum(episode.num_tokens for episode in episodes) / len(episodes),
        "truncated_share": sum(episode.truncated for episode in episodes) / len(episodes),
        "num_forced": float(len(batch.episodes) - len(episodes)),
        "num_groups": float(len(rewarded.alive)),
        "dropped_groups": float((~rewarded.alive).sum()),
    }
    for kind in ("closeup", "operation"):
        asked = [episode for episode in episodes if episode.question.kind == kind]
        if asked:
            right = sum(is_correct(episode.question, episode.answer) for episode in asked)
            figures[f"accuracy_{kind}"] = right / len(asked)
            figures[f"operation_rate_{kind}"] = operation_rate(asked)
    return figures

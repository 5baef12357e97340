"""Brings the rewards together: one matrix of raw components, weights on a schedule, advantages, and a log of it all.

Order: every component scores the batch; where a rollout's last operation failed, every component becomes its failure
value 0 (charges stay: failing must not be cheaper than not failing); each component is z-scored in its group, weighted
and summed (`grpo.decoupled_advantages`).

Weights: each moves linearly from `start` to `end` over training. With `adaptive`, a component that is nearly always at
its best (running mean over `saturation`) fades to nothing as the mean approaches 1: what is learned need not be paid
for. The task's weight is never adapted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from components.shared.learning.grpo import decoupled_advantages
from components.shared.learning.rewards.scored import Reward, RolloutBatch, Scored
from components.shared.runtime.errors import ConfigError


@dataclass(frozen=True)
class Weight:
    """A component's weight, linear from `start` to `end` over training."""

    start: float
    end: float

    def at(self, progress: float) -> float:
        """The weight at progress 0..1."""
        return self.start + (self.end - self.start) * min(max(progress, 0.0), 1.0)


@dataclass(frozen=True)
class Rewarded:
    """The rewards of one batch of N rollouts in G groups."""

    advantages: Tensor
    """(N,) float64."""
    alive: Tensor
    """(G,) bool: groups with spread."""
    components: dict[str, Tensor]
    """Component name -> raw values (N,) float64, after the failed-operation rule."""
    weights: dict[str, float]
    """The weights used."""
    records: list[dict[str, Any]] = field(repr=False)
    """One JSON object a rollout: group, raw components with their reasons, advantage."""


class Orchestrator:
    """See the module's text.

    Args:
        rewards: Components; their names must be the weights' keys.
        weights: Component name -> weight.
        adaptive: Fade components that are saturated.
        saturation: Running mean above which a component fades.
        memory: Decay of the running mean, by batch.
    """

    def __init__(
        self,
        rewards: Sequence[Reward],
        weights: Mapping[str, Weight],
        *,
        adaptive: bool = False,
        saturation: float = 0.95,
        memory: float = 0.9,
    ) -> None:
        names = [reward.name for reward in rewards]
        if sorted(names) != sorted(weights):
            raise ConfigError(f"rewards {sorted(names)} and weights {sorted(weights)} differ: which weight is whose?")
        self.rewards, self.weights = tuple(rewards), dict(weights)
        self.adaptive, self.saturation, self.memory = adaptive, saturation, memory
        self.running: dict[str, float] = {}
        """Running mean of each component; part of a training checkpoint."""

    def weights_at(self, progress: float) -> dict[str, float]:
        """The weights at progress 0..1, adapted to measured performance where that is on."""
        current = {name: weight.at(progress) for name, weight in self.weights.items()}
        if self.adaptive:
            for name in current.keys() - {"task"}:
                excess = (self.running.get(name, 0.0) - self.saturation) / (1.0 - self.saturation)
                current[name] *= 1.0 - min(max(excess, 0.0), 1.0)
        return current

    def reward(self, batch: RolloutBatch, *, progress: float) -> Rewarded:
        """Score a batch and turn the scores into advantages.

        Args:
            batch: N finished episodes in groups.
            progress: How far through training, 0..1.
        """
        scored = {reward.name: reward.score(batch) for reward in self.rewards}
        failed = [episode.last_call_failed for episode in batch.episodes]
        components = {
            name: torch.tensor(
                [min(item.value, 0.0) if fault else item.value for item, fault in zip(scores, failed)],
                dtype=torch.float64,
            )
            for name, scores in scored.items()
        }
        weights = self.weights_at(progress)
        groups = torch.tensor(batch.groups, dtype=torch.int64)
        advantages, alive = decoupled_advantages(components, weights, groups)
        for name, values in components.items():
            mean = float(values.mean()) if len(values) else 0.0
            self.running[name] = self.memory * self.running.get(name, mean) + (1 - self.memory) * mean
        records = _records(batch, scored, components, advantages)
        return Rewarded(advantages, alive, components, weights, records)


def _records(
    batch: RolloutBatch, scored: Mapping[str, list[Scored]], components: Mapping[str, Tensor], advantages: Tensor
) -> list[dict[str, Any]]:
    """What the log keeps of each rollout."""
    records = []
    for index, episode in enumerate(batch.episodes):
        parts = {
            name: {"value": round(float(components[name][index]), 6), **items[index].why}
            for name, items in scored.items()
        }
        records.append(
            {
                "question_id": episode.question.question_id,
                "group": batch.groups[index],
                "forced": episode.forced,
                "truncated": episode.truncated,
                "num_calls": len(episode.calls),
                "last_call_failed": episode.last_call_failed,
                "advantage": round(float(advantages[index]), 6),
                "rewards": parts,
            }
        )
    return records

"""What every reward is: a function from a batch of finished episodes to one score each, with the reasons beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from components.shared.learning.episode import Episode


@dataclass(frozen=True)
class Scored:
    """One rollout's score in one reward.

    Attributes:
        value: The raw reward, before normalisation in the group.
        why: Small JSON values that explain it; logged, never trained on.
    """

    value: float
    why: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RolloutBatch:
    """Finished episodes and the group (question) each belongs to, 0..G-1; groups may differ in size."""

    episodes: Sequence[Episode]
    groups: Sequence[int]

    def members(self) -> dict[int, list[int]]:
        """Indices of the rollouts of each group."""
        found: dict[int, list[int]] = {}
        for index, group in enumerate(self.groups):
            found.setdefault(group, []).append(index)
        return found


class Reward(Protocol):
    """One component of the reward."""

    @property
    def name(self) -> str:
        """The component's name in weights and logs."""
        ...

    def score(self, batch: RolloutBatch) -> list[Scored]:
        """One score a rollout, in the batch's order."""
        ...

"""Trajectories in memory as conversations, and the batch of each step.

The batch of a step depends only on the seed, the step and the curriculum's stage: a resumed run draws what the
uninterrupted one would have drawn, and no random state is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from components.sft.curriculum import STAGES
from components.shared.policy.interface import Conversation
from components.shared.policy.prompts import conversation_of
from components.shared.runtime.errors import InputError
from components.shared.samples.index import read_index
from components.shared.samples.trajectory_shards import read_trajectories


@dataclass
class Lessons:
    """Conversations by stage, in the order of the shards."""

    by_stage: dict[str, list[Conversation]] = field(repr=False)

    def counts(self) -> list[int]:
        """Conversations of each stage."""
        return [len(self.by_stage[stage]) for stage in STAGES]

    def upto(self, stage: int) -> list[Conversation]:
        """All conversations of the stages up to and with `stage`."""
        return [conversation for name in STAGES[: stage + 1] for conversation in self.by_stage[name]]


def read_lessons(trajectories: Path, split: str, limit: int) -> Lessons:
    """At most `limit` trajectories of a split, evenly spread.

    Raises:
        InputError: there is none.
    """
    total = read_index(trajectories).count(split)
    if not total:
        raise InputError(
            f"{trajectories} has no {split} trajectory, so nothing can be tuned or validated.",
            remedy="Look at the rejection reasons in the trajectories step's report.",
        )
    by_stage: dict[str, list[Conversation]] = {stage: [] for stage in STAGES}
    for index, (trajectory, view, tools) in enumerate(read_trajectories(trajectories, split)):
        if total <= limit or (index + 1) * limit // total > index * limit // total:
            by_stage[trajectory.stage].append(conversation_of(trajectory, view, tools))
    return Lessons(by_stage)


def read_both(trajectories: Path, num_train: int, num_validation: int) -> tuple[Lessons, list[Conversation], bool]:
    """(training lessons, validation conversations, whether these are of other people).

    Data too small to have validation trajectories gives up every tenth training trajectory instead: choosing the best
    checkpoint then rests on the same people, and the report says so.
    """
    train = read_lessons(trajectories, "train", num_train)
    if read_index(trajectories).count("validation"):
        return train, read_lessons(trajectories, "validation", num_validation).upto(len(STAGES)), True
    held = [conversation for items in train.by_stage.values() for conversation in items[::10]][:num_validation]
    kept = {stage: [item for index, item in enumerate(items) if index % 10] for stage, items in train.by_stage.items()}
    return (Lessons(kept) if sum(map(len, kept.values())) else train), held, False


def batch_of(pool: list[Conversation], seed: int, step: int, size: int) -> list[Conversation]:
    """`size` conversations: passes through a permutation of the pool, each pass in another order."""
    chosen = []
    for position in range(step * size, (step + 1) * size):
        turn, place = divmod(position, len(pool))
        order = np.random.default_rng([seed, 5, turn, len(pool)]).permutation(len(pool))
        chosen.append(pool[int(order[place])])
    return chosen

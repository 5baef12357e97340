"""Which questions are asked when: a pool a kind, drawn in an order that depends on the seed and the step alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.shared.runtime.errors import ArtifactError
from components.shared.samples.clip import Clip
from components.shared.samples.clip_shards import read_clips
from components.shared.samples.trajectory import Question, QuestionKind

KINDS: tuple[QuestionKind, ...] = ("closeup", "operation")


@dataclass(frozen=True)
class Schedule:
    """Draws the questions of each step.

    Attributes:
        pools: Questions by kind.
        shares: How many questions of each kind a step asks.
        seed: Of the order.
    """

    pools: dict[QuestionKind, Sequence[Question]]
    shares: dict[QuestionKind, int]
    seed: int

    def step(self, step: int) -> list[Question]:
        """The questions of one step: each pool is gone through whole, in a fresh order each time."""
        return [question for kind in KINDS for question in self._draw(kind, step)]

    def needed(self, steps: int, part: slice = slice(None)) -> set[str]:
        """Clip ids of the questions of the first `steps` steps; of a `part` of each step's where one is given."""
        return {question.clip_id for step in range(steps) for question in self.step(step)[part]}

    def _draw(self, kind: QuestionKind, step: int) -> list[Question]:
        pool, count = self.pools[kind], self.shares[kind]
        chosen = []
        for position in range(step * count, (step + 1) * count):
            lap, index = divmod(position, len(pool))
            order = np.random.default_rng([self.seed, KINDS.index(kind), lap]).permutation(len(pool))
            chosen.append(pool[int(order[index])])
        return chosen


def plan(questions: Iterable[Question], *, num_groups: int, closeup_share: float, seed: int) -> Schedule:
    """Share a step's groups among the kinds of question that the data has.

    Raises:
        ArtifactError: there is no question at all.
    """
    pools: dict[QuestionKind, list[Question]] = {kind: [] for kind in KINDS}
    for question in questions:
        pools[question.kind].append(question)
    if not any(pools.values()):
        raise ArtifactError(
            "the trajectories hold no training questions, so there is nothing to reinforce.",
            remedy="Run trajectories again with more clips, or set rft.steps=0.",
        )
    closeups = round(num_groups * closeup_share) if pools["closeup"] else 0
    if not pools["operation"]:
        closeups = num_groups
    return Schedule(dict(pools), {"closeup": closeups, "operation": num_groups - closeups}, seed)


def sample_questions(questions: Iterable[Question], kind: QuestionKind, count: int, seed: int) -> list[Question]:
    """At most `count` questions of a kind, chosen by the seed, in their own order."""
    pool = [question for question in questions if question.kind == kind]
    chosen = np.random.default_rng(seed).permutation(len(pool))[:count]
    return [pool[index] for index in sorted(chosen)]


def clips_by_id(artifact: Path, split: str, wanted: set[str]) -> dict[str, Clip]:
    """The wanted clips of a split, pixels still encoded.

    Raises:
        ArtifactError: a question's clip is not in the artifact.
    """
    found = {clip.meta.clip_id: clip for clip in read_clips(artifact, split) if clip.meta.clip_id in wanted}
    if missing := wanted - found.keys():
        raise ArtifactError(
            f"{len(missing)} clips that questions ask about are not among the {split} clips of {artifact} "
            f"(first: {min(missing)}), so the questions cannot be asked.",
            remedy="Use trajectories made from these clips.",
        )
    return found

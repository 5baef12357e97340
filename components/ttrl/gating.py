"""What may be learned from a vote, and how strongly.

Role: pure functions between voting and the update worker. Sources (REFERENCES.md): SCRL for the thresholds of
positive and negative labels, TTRL-Guard for flips.

Deviations, said: SCRL takes negatives only where the token entropy is at least the batch's mean; here a low vote share
alone makes a negative, and only beside a quorum. TTRL-Guard's weights are applied per visit, not per epoch.

Notation: p1 >= p2 >= ... the vote shares of the classes (abstentions left out).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from components.ttrl.voting import Answer, Ballot

T = TypeVar("T")


@dataclass(frozen=True)
class Lesson:
    """What a ballot teaches.

    Attributes:
        label: The pseudo-label, None where the vote was not clear enough.
        negatives: Answers that may be held to be wrong.
        neutral: Answers between the thresholds: nothing is learned about them.
        weight: 0..1, the winner's part of all rollouts.
        reason: Why there is no label, empty where there is one.
    """

    label: Answer | None
    negatives: tuple[Answer, ...]
    weight: float
    reason: str = ""
    neutral: tuple[Answer, ...] = ()

    @property
    def teaches(self) -> bool:
        """Whether anything at all may be learned."""
        return self.label is not None or bool(self.negatives)


def lesson(ballot: Ballot, *, share: float, margin: float, negative_share: float, quorum: float) -> Lesson:
    """Turn a ballot into a lesson.

    A pseudo-label needs p1 >= share, p1 - p2 > margin and enough votes; an answer with a share under `negative_share`
    is a negative; what lies between teaches nothing.
    """
    if ballot.winner is None:
        return Lesson(None, (), 0.0, "every rollout abstained")
    if ballot.quorum < quorum:
        return Lesson(None, (), 0.0, f"only {ballot.num_votes} of {ballot.num_rollouts} rollouts voted")
    negatives = tuple(c.answer for c in ballot.classes if c.share < negative_share)
    middle = tuple(c.answer for c in ballot.classes if c.share >= negative_share)
    if ballot.top_share < share:
        reason = f"top share {ballot.top_share:.2f} is under {share:g}"
        return Lesson(None, negatives, ballot.confidence, reason, middle)
    if not ballot.margin > margin + 1e-9:
        reason = f"margin {ballot.margin:.2f} is not above {margin:g}"
        return Lesson(None, negatives, ballot.confidence, reason, middle)
    return Lesson(ballot.winner.answer, negatives, ballot.confidence, "", middle[1:])


def visit_weight(*, flipped: bool, share: float) -> float:
    """Weight of an experience visited again (TTRL-Guard): 1 - 0.5·flip, and ·0.7 where the new majority is above 0.6.

    Args:
        flipped: Whether the fresh majority differs from the stored pseudo-label.
        share: The fresh majority's vote share.
    """
    if not flipped:
        return 1.0
    return 0.5 * (0.7 if share > 0.6 else 1.0)


def is_contested(*, num_flips: int, num_visits: int, share: float) -> bool:
    """Items to leave alone: they flipped before, were visited at least 5 times, and now look certain (> 0.7)."""
    return num_flips > 0 and num_visits >= 5 and share > 0.7


def learning_rate(base: float, *, confidence: float, num_updates: int, ramp_updates: int) -> float:
    """Learning rate of one update: scaled by mean confidence in [0.1, 1] and by the ramp after the cold start.

    Args:
        base: Rate at full confidence after the ramp.
        confidence: Mean weight of the batch's lessons, 0..1.
        num_updates: Updates tried so far.
        ramp_updates: Updates over which the rate rises linearly.
    """
    ramp = min((num_updates + 1) / (ramp_updates + 1), 1.0)
    return base * min(max(confidence, 0.1), 1.0) * ramp


def cap_sources(items: Iterable[T], sources: Sequence[Hashable], *, batch: int, max_share: float) -> list[T]:
    """The first items in order, at most ceil(max_share·batch) of one source and `batch` in all.

    The cap is on the batch's full size: where there is only one source, the batch is smaller, not the cap larger.
    """
    limit = max(1, math.ceil(max_share * batch - 1e-9))
    taken: dict[Hashable, int] = {}
    kept: list[T] = []
    for item, source in zip(items, sources, strict=True):
        if len(kept) == batch:
            break
        if taken.get(source, 0) < limit:
            taken[source] = taken.get(source, 0) + 1
            kept.append(item)
    return kept

"""Votes over rollouts of one input: which answers are the same, and which one wins.

Role: pure functions. An answer is `{"operation", "start_s", "end_s", "next_operation"}` or `{"value"}`; `None` is an
abstention (unparsable, or no answer within the turn limit).

Equivalence: two operation answers are the same vote when their operation is equal and their segments overlap; two
close-up answers when their value is equal. Overlap is not transitive, so classes are formed around a centre: the
answer that overlaps most of the others still free becomes a centre, everything that overlaps it joins, and so on.

Guarantees: the outcome does not depend on the order of the rollouts (except which of two identical ones is shown), an
abstention never wins and is never counted in a share (the bug of `None` winning the vote: REFERENCES.md, TTRL).
Not guaranteed: that the winner is right; with few labels wrong answers concentrate, which is why gating.py exists.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Answer = dict[str, Any]


@dataclass(frozen=True)
class VoteClass:
    """Answers that count as one.

    Attributes:
        answer: The representative: a member's own answer, never a mixture.
        members: Indices of the rollouts in the class, ascending.
        representative: Index of the rollout whose answer this is.
        share: Part of the *votes* (abstentions left out), 0..1.
    """

    answer: Answer
    members: tuple[int, ...]
    share: float
    representative: int = 0

    @property
    def count(self) -> int:
        """Votes of the class."""
        return len(self.members)


@dataclass(frozen=True)
class Ballot:
    """The outcome of a vote; `classes` from most to fewest votes, empty where everyone abstained."""

    classes: tuple[VoteClass, ...]
    num_rollouts: int

    @property
    def num_votes(self) -> int:
        """Rollouts that voted."""
        return sum(c.count for c in self.classes)

    @property
    def winner(self) -> VoteClass | None:
        """The class with most votes."""
        return self.classes[0] if self.classes else None

    @property
    def top_share(self) -> float:
        """The winner's share of the votes, 0 where nobody voted."""
        return self.classes[0].share if self.classes else 0.0

    @property
    def margin(self) -> float:
        """Lead of the winner's share over the second's."""
        return self.top_share - (self.classes[1].share if len(self.classes) > 1 else 0.0)

    @property
    def quorum(self) -> float:
        """Part of the rollouts that voted."""
        return self.num_votes / self.num_rollouts if self.num_rollouts else 0.0

    @property
    def confidence(self) -> float:
        """The winner's part of *all* rollouts, so that abstentions lower it."""
        return self.classes[0].count / self.num_rollouts if self.classes else 0.0


def same_vote(one: Answer, other: Answer) -> bool:
    """Whether two answers count as the same vote (reflexive and symmetric, not transitive)."""
    if ("value" in one) != ("value" in other):
        return False
    if "value" in one:
        return one["value"] == other["value"]
    if one["operation"] != other["operation"]:
        return False
    return one == other or min(one["end_s"], other["end_s"]) > max(one["start_s"], other["start_s"])


def temporal_iou(one: Answer, other: Answer) -> float:
    """Intersection over union of two answers' segments, 0..1; 1 for close-up answers and equal segments."""
    if "value" in one or "value" in other:
        return 1.0
    intersection = max(0.0, min(one["end_s"], other["end_s"]) - max(one["start_s"], other["start_s"]))
    union = max(one["end_s"], other["end_s"]) - min(one["start_s"], other["start_s"])
    return intersection / union if union > 0 else float(one["start_s"] == other["start_s"])


def vote(answers: Sequence[Answer | None]) -> Ballot:
    """Count the votes.

    Args:
        answers: One entry a rollout; None abstains.
    """
    free = [index for index, answer in enumerate(answers) if answer is not None]
    num_votes = len(free)
    ballots: dict[int, Answer] = {index: answers[index] or {} for index in free}
    classes = []
    while free:
        reach = {i: [j for j in free if same_vote(ballots[i], ballots[j])] for i in free}
        centre = min(free, key=lambda i: (-len(reach[i]), -_closeness(i, reach[i], ballots), _key(ballots[i])))
        members = reach[centre]
        best = _representative(members, ballots)
        classes.append(VoteClass(ballots[best], tuple(members), len(members) / num_votes, best))
        free = [i for i in free if i not in members]
    classes.sort(key=lambda c: (-c.count, _key(c.answer)))
    return Ballot(tuple(classes), len(answers))


def adjusted_confidence(
    own: float, agreements: Sequence[tuple[float, bool]], *, num_asked: int, weight: float
) -> float:
    """Confidence after hearing the neighbours; they move it, they never change the answer.

    Args:
        own: Confidence from the votes.
        agreements: (similarity in 0..1, whether the neighbour's answer names the same operation or value).
        num_asked: Neighbours looked for; fewer found means less weight.
        weight: Largest part neighbours can make up.

    Returns:
        (1 - w)·own + w·(similarity-weighted share that agrees), w = weight·found/asked; `own` without neighbours.
    """
    total = sum(max(similarity, 0.0) for similarity, _ in agreements)
    if total <= 0 or num_asked <= 0:
        return own
    agreement = sum(max(similarity, 0.0) for similarity, agrees in agreements if agrees) / total
    heard = weight * min(len(agreements) / num_asked, 1.0)
    return (1 - heard) * own + heard * agreement


def _closeness(index: int, others: Sequence[int], answers: dict[int, Answer]) -> float:
    return round(sum(temporal_iou(answers[index], answers[j]) for j in others), 9)


def _representative(members: Sequence[int], answers: dict[int, Answer]) -> int:
    """The member that shares its next operation with most of the class and lies most centrally in it."""
    following = Counter(answers[i].get("next_operation") for i in members)
    return min(
        members,
        key=lambda i: (
            -following[answers[i].get("next_operation")],
            -_closeness(i, members, answers),
            _key(answers[i]),
        ),
    )


def _key(answer: Answer) -> str:
    return json.dumps(answer, sort_keys=True, ensure_ascii=False)

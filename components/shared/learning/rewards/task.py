"""Task reward: is the answer right?

Close-up questions: 0.1 for an answer among the choices, plus 0.9 where it is the true one (the recipe of the second
prototype, MODELS.md). Operation questions: 0.1 for a well-formed answer, plus 0.9 times the weighted sum of operation
right, segment better than a constant one, and next operation right.

The segment part pays only what lies above the best constant segment: max(0, (tIoU - c) / (1 - c)), c being the
constant's tIoU on this question. The cut at 0 is what matters: without it a group's mean would absorb c, and a policy
that always answers the constant would be paid for it (the first prototype collapsed that way). The price is that
segments worse than the constant are all alike. The constant is fitted on a set of truths handed in (the training
questions), not on the handful of questions of one batch, where it would be fitted to the very truth it judges.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.shared.learning.metrics import Segment, temporal_iou
from components.shared.learning.rewards.scored import RolloutBatch, Scored
from components.shared.samples.trajectory import Question

VALID_SHARE = 0.1
GRID_S = 0.1


def segment_of(answer: dict[str, Any] | None) -> Segment | None:
    """(start_s, end_s) of an answer, None where either is missing or no finite number."""
    if answer is None:
        return None
    bounds = answer.get("start_s"), answer.get("end_s")
    if any(
        isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound) for bound in bounds
    ):
        return None
    return float(bounds[0]), float(bounds[1])  # type: ignore[arg-type]


def best_constant_segment(truths: Iterable[dict[str, Any]]) -> Segment | None:
    """The segment on a 0.1 s grid with the highest mean tIoU over operation truths, None where there are none."""
    segments = np.array([segment for truth in truths if (segment := segment_of(truth)) is not None], dtype=np.float64)
    if not len(segments):
        return None
    ticks = np.round(np.arange(0, segments.max() + GRID_S / 2, GRID_S), 1)
    starts, ends = (axis.ravel() for axis in np.meshgrid(ticks, ticks, indexing="ij"))
    starts, ends = starts[ends > starts], ends[ends > starts]
    total = np.zeros(len(starts))
    for start, end in segments:
        overlap = np.clip(np.minimum(ends, end) - np.maximum(starts, start), 0, None)
        total += overlap / np.maximum((ends - starts) + max(end - start, 0) - overlap, 1e-9)
    best = int(total.argmax())
    return float(starts[best]), float(ends[best])


def above_constant(answer: Segment, truth: Segment, constant: Segment | None) -> float:
    """max(0, (tIoU(answer) - c) / (1 - c)); 0 where the constant is already exact."""
    base = temporal_iou(constant, truth) if constant is not None else 0.0
    return max(0.0, (temporal_iou(answer, truth) - base) / (1.0 - base)) if base < 1.0 else 0.0


def is_correct(question: Question, answer: dict[str, Any] | None) -> bool:
    """Whether the answer names the right thing: the close-up's value, or the operation under way."""
    if answer is None:
        return False
    key = "value" if question.kind == "closeup" else "operation"
    return key in answer and key in question.truth and answer[key] == question.truth[key]


@dataclass(frozen=True)
class TaskReward:
    """The task reward of both kinds of question, 0..1.

    Attributes:
        constant: The constant segment whose tIoU pays nothing (`best_constant_segment`).
        operation: Weight of the operation, of the segment and of the next operation; they sum to 1.
        segment: See `operation`.
        next_operation: See `operation`.
    """

    constant: Segment | None = None
    operation: float = 0.5
    segment: float = 0.3
    next_operation: float = 0.2
    name: str = "task"

    def score(self, batch: RolloutBatch) -> list[Scored]:
        """One score a rollout."""
        return [self.answer_score(episode.question, episode.answer) for episode in batch.episodes]

    def answer_score(self, question: Question, answer: dict[str, Any] | None) -> Scored:
        """The reward of one answer to one question."""
        if answer is None:
            return Scored(0.0, {"valid": False, "correct": False})
        correct = is_correct(question, answer)
        if question.kind == "closeup":
            valid = answer.get("value") in question.choices
            return Scored(VALID_SHARE * valid + (1 - VALID_SHARE) * correct, {"valid": valid, "correct": correct})
        given, truth = segment_of(answer), segment_of(question.truth)
        valid = given is not None and "operation" in answer and "next_operation" in answer
        placed = above_constant(given, truth, self.constant) if given is not None and truth is not None else 0.0
        follows = "next_operation" in answer and answer["next_operation"] == question.truth.get("next_operation")
        parts = self.operation * correct + self.segment * placed + self.next_operation * follows
        why = {"valid": valid, "correct": correct, "segment": round(placed, 4), "next": follows}
        return Scored(VALID_SHARE * valid + (1 - VALID_SHARE) * parts, why)

"""Figures of answers to operation questions, as base_model and sft report them on validation people.

Pure arithmetic. OCA: share of right operations. AA@1: share of right next operations (none counts as an answer).
tIoU@0.5: share of boundary windows whose segment overlaps the true one by at least half, beside the best constant
segment's. An unparsed answer counts as wrong everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from components.shared.learning.rewards.task import Segment, segment_of, temporal_iou

EXPLAINED = (
    "OCA: share of windows whose operation is named right; AA@1: whose next operation is; tIoU@0.5: share of the "
    "windows with a boundary whose segment overlaps the true one by at least half (intersection over union of times)."
)
"""What the figures' names mean, one line for the reports that show them."""


def answer_figures(
    truths: Sequence[dict[str, Any]],
    answers: Sequence[dict[str, Any] | None],
    boundary: Sequence[bool],
    constant: Segment | None,
) -> dict[str, float]:
    """Figures of N answers.

    Args:
        truths: True answers.
        answers: Parsed answers, None where unparsed.
        boundary: Whether the window contains a boundary: only these count for tIoU.
        constant: The best constant segment of the training questions.

    Returns:
        `oca`, `aa`, `tiou`, `tiou_constant`, `valid_share`, `distinct_segments`, `num_windows`, `num_boundary_windows`.
    """
    total = len(truths)
    if not total:
        return {"num_windows": 0.0}
    inside = [index for index in range(total) if boundary[index]]
    overlaps = [_overlap(truths[index], segment_of(answers[index])) for index in inside]
    fixed = [_overlap(truths[index], constant) for index in inside]
    given = {segment for answer in answers if (segment := segment_of(answer)) is not None}
    return {
        "oca": sum(_equal(t, a, "operation") for t, a in zip(truths, answers)) / total,
        "aa": sum(_equal(t, a, "next_operation") for t, a in zip(truths, answers)) / total,
        "tiou": sum(value >= 0.5 for value in overlaps) / len(inside) if inside else 0.0,
        "tiou_constant": sum(value >= 0.5 for value in fixed) / len(inside) if inside else 0.0,
        "valid_share": sum(answer is not None for answer in answers) / total,
        "distinct_segments": float(len(given)),
        "num_windows": float(total),
        "num_boundary_windows": float(len(inside)),
    }


def _equal(truth: dict[str, Any], answer: dict[str, Any] | None, key: str) -> bool:
    return answer is not None and key in answer and answer[key] == truth.get(key)


def _overlap(truth: dict[str, Any], segment: Segment | None) -> float:
    true = segment_of(truth)
    return temporal_iou(true, segment) if true is not None and segment is not None else 0.0

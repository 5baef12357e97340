"""Figures of answers about windows, as pure functions over arrays; N windows.

    OCA        share of windows whose operation is named right (top-1 operation classification accuracy)
    AA@1       share of windows, among those that have a next operation, whose next operation is named right
    tIoU       intersection over union of the answered and the true segment
    tIoU@0.5   share of windows with tIoU >= 0.5

An answer that cannot be read counts as wrong everywhere. tIoU is reported on windows that contain a boundary, because
on whole-operation windows a constant answer scores nearly 1. Every figure is first an array a window (NaN where the
window has no say), so that intervals and paired differences are taken over the same windows; `mean` is the figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Segment = tuple[float, float]


@dataclass(frozen=True)
class Answer:
    """An answer about a window: the truth, or what a policy said.

    Attributes:
        operation: Label, None where the answer could not be read.
        segment_s: (start, end) seconds from the window's start, None where the answer could not be read.
        next_operation: Label, None for "nothing follows".
    """

    operation: str | None
    segment_s: Segment | None
    next_operation: str | None = None

    @property
    def valid(self) -> bool:
        """Whether it could be read whole."""
        return self.operation is not None and self.segment_s is not None


UNPARSED = Answer(None, None, None)


def temporal_iou(a: Segment | None, b: Segment | None) -> float:
    """Intersection over union of two segments (start, end); 0 where one is missing or has no length."""
    if a is None or b is None or a[1] <= a[0] or b[1] <= b[0]:
        return 0.0
    overlap = min(a[1], b[1]) - max(a[0], b[0])
    return max(0.0, overlap) / (max(a[1], b[1]) - min(a[0], b[0]) if overlap > 0 else 1.0)


def operation_right(truth: Sequence[Answer], given: Sequence[Answer]) -> np.ndarray:
    """(N,) 1.0 where the operation is right; its mean is OCA."""
    return np.array([float(g.valid and g.operation == t.operation) for t, g in zip(truth, given, strict=True)])


def next_right(truth: Sequence[Answer], given: Sequence[Answer]) -> np.ndarray:
    """(N,) 1.0 where the next operation is right, NaN where none follows; its mean is AA@1."""
    return np.array(
        [
            np.nan if t.next_operation is None else float(g.valid and g.next_operation == t.next_operation)
            for t, g in zip(truth, given, strict=True)
        ]
    )


def overlap(truth: Sequence[Answer], given: Sequence[Answer], counted: Sequence[bool] | np.ndarray) -> np.ndarray:
    """(N,) tIoU, NaN where `counted` is False (windows without a boundary)."""
    return np.array(
        [
            temporal_iou(t.segment_s, g.segment_s if g.valid else None) if c else np.nan
            for t, g, c in zip(truth, given, counted, strict=True)
        ]
    )


def at_least(values: np.ndarray, threshold: float) -> np.ndarray:
    """1.0 where a value reaches the threshold, NaN kept: tIoU -> tIoU@threshold."""
    return np.where(np.isnan(values), np.nan, (values >= threshold).astype(float))


def mean(values: np.ndarray) -> float | None:
    """The mean of what is not NaN, None where nothing is left."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else None


def num_distinct_segments(given: Sequence[Answer]) -> int:
    """How many different segments were answered: one means a constant answer."""
    return len({answer.segment_s for answer in given if answer.valid})


def confusion_matrix(truth: np.ndarray, given: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts [truth][given]; `given` outside 0 .. num_classes-1 falls into a last, extra column: (K, K + 1)."""
    matrix = np.zeros((num_classes, num_classes + 1), dtype=int)
    known = (given >= 0) & (given < num_classes)
    np.add.at(matrix, (truth, np.where(known, given, num_classes)), 1)
    return matrix


def class_scores(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(precision, recall, F1) per class of confusion matrices (..., K, K + 1); 0 where undefined, as scikit-learn."""
    num_classes = confusion.shape[-2]
    right = np.diagonal(confusion[..., :num_classes], axis1=-2, axis2=-1).astype(float)
    said, there = confusion[..., :num_classes].sum(axis=-2), confusion.sum(axis=-1)
    divide = lambda a, b: np.divide(a, b, out=np.zeros_like(right), where=b > 0)
    return divide(right, said), divide(right, there), divide(2 * right, said + there)


def macro_f1(confusion: np.ndarray, *, present_only: bool = False) -> np.ndarray:
    """Mean F1 over classes of confusion matrices (..., K, K + 1) -> (...).

    Args:
        confusion: Counts [truth][given].
        present_only: Leave out classes that occur neither as truth nor as answer (openpack-toolkit scores every class
            of its list, as False does; a small test set may lack some).
    """
    f1 = class_scores(confusion)[2]
    if not present_only:
        return f1.mean(axis=-1)
    occurs = (confusion.sum(axis=-1) + confusion[..., : confusion.shape[-2]].sum(axis=-2)) > 0
    return (f1 * occurs).sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1)


def expected_calibration_error(
    confidence: np.ndarray, right: np.ndarray, *, num_bins: int = 10
) -> tuple[float, list[tuple[float, float, int]]]:
    """ECE (Guo et al. 2017): Σ over equal-width bins of (share in bin) · |accuracy - mean confidence|.

    Args:
        confidence: (N,) in 0..1.
        right: (N,) 0 or 1.
        num_bins: Equal-width bins.

    Returns:
        ECE, and (mean confidence, accuracy, count) of each bin that is not empty.
    """
    if len(confidence) == 0:
        return 0.0, []
    place = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    bins = [
        (float(confidence[place == b].mean()), float(right[place == b].mean()), int((place == b).sum()))
        for b in range(num_bins)
        if (place == b).any()
    ]
    error = sum(count * abs(accuracy - mean_confidence) for mean_confidence, accuracy, count in bins) / len(confidence)
    return float(error), bins

"""Timelines: from window answers to a label a second, and the figures of whole timelines.

    1 Hz macro-F1   OpenPack challenge: the last label of each second, seconds whose truth is ignored dropped, mean F1
                    over classes (in parity with openpack-toolkit; golden values in the tests)
    edit            segmental edit score: 100 · (1 - Levenshtein(segments) / longer one) (Lea et al. 2017)
    F1@k            segmental F1 at k % overlap: a segment is right where its best free match of the same label has
                    IoU >= k (Lea et al. 2017, in the form of MS-TCN, Farha & Gall 2019)

Labels are integers; NO_LABEL (-1) is "nothing said" and "not scored".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

NO_LABEL = -1
NEXT_WEIGHT = 0.5
"""A vote for what follows weighs half of a vote for what is under way."""


def sampled(segments: Iterable[tuple[int, float, float]], times_s: np.ndarray) -> np.ndarray:
    """Label of each time: segments (label, start, end) with end excluded -> (T,), NO_LABEL outside all."""
    labels = np.full(len(times_s), NO_LABEL)
    for label, start, end in segments:
        labels[(times_s >= start) & (times_s < end)] = label
    return labels


def fuse(
    answers: Iterable[tuple[int, float, float, int | None, float]], times_s: np.ndarray, num_classes: int
) -> np.ndarray:
    """One label a time from overlapping windows' answers.

    Each answer votes for its operation inside its segment, and with half weight for its next operation from the
    segment's end to the window's end. Times without a vote take the nearest voted time's label (the earlier of two).

    Args:
        answers: (operation, start, end, next or None, window end), seconds of the recording.
        times_s: (T,) ascending.
        num_classes: K.

    Returns:
        (T,) labels; NO_LABEL everywhere where nobody voted.
    """
    votes = np.zeros((len(times_s), num_classes))
    for operation, start, end, following, window_end in answers:
        votes[(times_s >= start) & (times_s < end), operation] += 1.0
        if following is not None:
            votes[(times_s >= end) & (times_s < window_end), following] += NEXT_WEIGHT
    voted = np.flatnonzero(votes.sum(axis=1) > 0)
    if not len(voted):
        return np.full(len(times_s), NO_LABEL)
    labels = votes.argmax(axis=1)
    nearest = voted[np.abs(times_s[:, None] - times_s[voted][None]).argmin(axis=1)]
    return labels[nearest]


def resample_1hz(unix_ms: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The official 1 Hz form: each second that occurs, and the last label in it (openpack-toolkit's convention).

    Args:
        unix_ms: (N,) ascending milliseconds.
        labels: (N,).
    """
    seconds = unix_ms - unix_ms % 1000
    last = np.flatnonzero(np.append(np.diff(seconds) != 0, True)) if len(seconds) else np.zeros(0, int)
    return seconds[last], labels[last]


def runs(labels: np.ndarray) -> list[tuple[int, int, int]]:
    """Maximal runs (label, first, past-last) of a label sequence, NO_LABEL runs left out."""
    edges = np.flatnonzero(np.diff(labels)) + 1
    bounds = [0, *edges.tolist(), len(labels)] if len(labels) else []
    return [(int(labels[a]), a, b) for a, b in pairwise(bounds) if labels[a] != NO_LABEL]


def edit_score(truth: np.ndarray, given: np.ndarray) -> float:
    """Segmental edit score, 0..100."""
    a, b = [run[0] for run in runs(truth)], [run[0] for run in runs(given)]
    if not a and not b:
        return 100.0
    return 100.0 * (1 - levenshtein(a, b) / max(len(a), len(b)))


def levenshtein(a: Sequence[int], b: Sequence[int]) -> int:
    """Least number of insertions, deletions and substitutions from a to b."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def segment_matches(truth: np.ndarray, given: np.ndarray, threshold: float) -> tuple[int, int, int]:
    """(true positives, false positives, false negatives) of segments at an IoU threshold.

    Each answered segment, in order, takes the true segment of its label with the highest IoU; it is right where that
    IoU reaches the threshold and no earlier answer has taken the same one.
    """
    true_runs, taken = runs(truth), set()
    right = wrong = 0
    for label, first, last in runs(given):
        ious = [
            max(0, min(last, b) - max(first, a)) / (max(last, b) - min(first, a)) if other == label else 0.0
            for other, a, b in true_runs
        ]
        best = int(np.argmax(ious)) if ious else -1
        if best >= 0 and ious[best] >= threshold and best not in taken and ious[best] > 0:
            taken.add(best)
            right += 1
        else:
            wrong += 1
    return right, wrong, len(true_runs) - right


def segmental_f1(pairs: Iterable[tuple[np.ndarray, np.ndarray]], threshold: float) -> float:
    """F1@threshold over (truth, given) timelines, counts added up before the ratio, 0..1."""
    counts = np.array([segment_matches(truth, given, threshold) for truth, given in pairs]).reshape(-1, 3).sum(axis=0)
    right, wrong, missed = counts.tolist()
    return 2 * right / (2 * right + wrong + missed) if right else 0.0

"""What needs no model: the answers every figure stands beside.

    constant                one answer for all windows, chosen in hindsight on the test windows themselves, so that no
                            constant can score higher (each figure has its own best constant)
    prior                   a training answer drawn at random: expected score; one seeded draw for the timeline
    uniform                 every label, and every segment on a grid, equally likely: expected score
    bigram_from_predicted   next operation only: what most often follows the operation the model named
    bigram_from_truth       the same from the true operation: an upper reference, not a hurdle

Expected scores are exact, not sampled, so they add no noise to a paired difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from components.shared.learning.metrics import Answer, Segment

GRID_S = 0.1
FIGURES = ("oca", "aa1", "tiou50")


@dataclass(frozen=True)
class Baseline:
    """Scores a window (NaN where it has no say), and answers a window for the timeline where it makes sense."""

    scores: dict[str, np.ndarray]
    answers: list[Answer] | None = None
    detail: str = ""


def all_baselines(
    truth: Sequence[Answer],
    boundary: np.ndarray,
    duration_s: float,
    labels: Sequence[str],
    train: Sequence[Answer],
    transitions: Mapping[str, Mapping[str, int]],
    predicted: Sequence[Answer],
    seed: int,
) -> dict[str, Baseline]:
    """All baselines over the scored windows.

    Args:
        truth: N true answers.
        boundary: (N,) bool, True where a window contains a boundary.
        duration_s: Window length.
        labels: K names.
        train: True answers of training questions.
        transitions: Label -> next label -> count, from training.
        predicted: The candidate's answers, for bigram_from_predicted.
        seed: Of the drawn timelines.
    """
    rng = np.random.default_rng(seed)
    return {
        "constant": constant(truth, boundary, duration_s),
        "prior": prior(truth, boundary, train or truth, rng, hindsight=not train),
        "uniform": uniform(truth, boundary, duration_s, labels, rng),
        "bigram_from_predicted": bigram(truth, [p.operation for p in predicted], transitions),
        "bigram_from_truth": bigram(truth, [t.operation for t in truth], transitions),
    }


def right(truth: Sequence[Answer], operation: str | None) -> np.ndarray:
    """(N,) 1.0 where the operation is this one."""
    return np.array([float(t.operation == operation) for t in truth])


def next_is(truth: Sequence[Answer], operation: str | None) -> np.ndarray:
    """(N,) 1.0 where the next operation is this one, NaN where none follows."""
    return np.array([np.nan if t.next_operation is None else float(t.next_operation == operation) for t in truth])


def commonest(items: Sequence[str | None]) -> str | None:
    """The most frequent item that is not None (the first by name among equals), None where there is none."""
    counts = Counter(item for item in items if item is not None)
    return min(counts, key=lambda item: (-counts[item], item)) if counts else None


def grid(duration_s: float) -> np.ndarray:
    """All segments (start < end) on a 0.1 s grid: (G, 2)."""
    ticks = np.arange(0, round(duration_s / GRID_S) + 1) * GRID_S
    first, last = np.triu_indices(len(ticks), k=1)
    return np.stack([ticks[first], ticks[last]], axis=1)


def ious(truth: Sequence[Answer], segments: np.ndarray) -> np.ndarray:
    """(N, G) tIoU of every truth with every segment (G, 2)."""
    own = np.array([t.segment_s or (0.0, 0.0) for t in truth]).reshape(-1, 2)
    shared = np.minimum(own[:, None, 1], segments[None, :, 1]) - np.maximum(own[:, None, 0], segments[None, :, 0])
    union = (own[:, 1] - own[:, 0])[:, None] + (segments[:, 1] - segments[:, 0])[None] - np.maximum(shared, 0)
    return np.maximum(shared, 0) / np.maximum(union, 1e-9)


def best_segment(truth: Sequence[Answer], boundary: np.ndarray, duration_s: float) -> Segment:
    """The constant segment with the highest tIoU@0.5 on boundary windows (higher mean tIoU among equals)."""
    segments = grid(duration_s)
    found = ious([t for t, b in zip(truth, boundary, strict=True) if b], segments)
    if not len(found):
        return (0.0, duration_s)
    best = np.lexsort((found.mean(axis=0), (found >= 0.5).mean(axis=0)))[-1]
    return (float(segments[best, 0]), float(segments[best, 1]))


def only(boundary: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values on boundary windows, NaN elsewhere."""
    return np.where(boundary, values, np.nan)


def constant(truth: Sequence[Answer], boundary: np.ndarray, duration_s: float) -> Baseline:
    """The best constant of each figure, in hindsight."""
    operation, following = commonest([t.operation for t in truth]), commonest([t.next_operation for t in truth])
    segment = best_segment(truth, boundary, duration_s)
    scores = {
        "oca": right(truth, operation),
        "aa1": next_is(truth, following),
        "tiou50": only(boundary, (ious(truth, np.array([segment]))[:, 0] >= 0.5).astype(float)),
    }
    detail = f"always “{operation}”, {segment[0]:.1f}–{segment[1]:.1f} s, then “{following}”"
    return Baseline(scores, [Answer(operation, (0.0, duration_s), None)] * len(truth), detail)


def prior(
    truth: Sequence[Answer], boundary: np.ndarray, train: Sequence[Answer], rng: np.random.Generator, *, hindsight: bool
) -> Baseline:
    """A random training answer (a random test answer where training has no questions)."""
    operations, following = Counter(t.operation for t in train), Counter(t.next_operation for t in train)
    share = lambda counts, item: counts[item] / max(1, sum(counts.values()))
    picked = train if len(train) <= 4000 else [train[i] for i in rng.permutation(len(train))[:4000]]
    segments = np.array([t.segment_s or (0.0, 0.0) for t in picked]).reshape(-1, 2)
    scores = {
        "oca": np.array([share(operations, t.operation) for t in truth]),
        "aa1": np.array([np.nan if t.next_operation is None else share(following, t.next_operation) for t in truth]),
        "tiou50": only(boundary, (ious(truth, segments) >= 0.5).mean(axis=1)),
    }
    drawn = [train[i] for i in rng.integers(len(train), size=len(truth))]
    return Baseline(
        scores, drawn, "a random test answer (no training questions)" if hindsight else "a random training answer"
    )


def uniform(
    truth: Sequence[Answer], boundary: np.ndarray, duration_s: float, labels: Sequence[str], rng: np.random.Generator
) -> Baseline:
    """Every answer equally likely."""
    chance = 1 / len(labels)
    scores = {
        "oca": np.full(len(truth), chance),
        "aa1": np.array([np.nan if t.next_operation is None else chance for t in truth]),
        "tiou50": only(boundary, (ious(truth, grid(duration_s)) >= 0.5).mean(axis=1)),
    }
    drawn = [Answer(labels[i], (0.0, duration_s), None) for i in rng.integers(len(labels), size=len(truth))]
    return Baseline(scores, drawn, "every answer equally likely")


def bigram(
    truth: Sequence[Answer], current: Sequence[str | None], transitions: Mapping[str, Mapping[str, int]]
) -> Baseline:
    """Next operation by the training transitions from a current operation."""
    follows = {label: commonest(list(Counter(counts).elements())) for label, counts in transitions.items()}
    guess = [follows.get(operation) if operation is not None else None for operation in current]
    scores = {
        "aa1": np.array(
            [
                np.nan if t.next_operation is None else float(g == t.next_operation)
                for t, g in zip(truth, guess, strict=True)
            ]
        )
    }
    return Baseline(scores, None, "what most often follows in training")

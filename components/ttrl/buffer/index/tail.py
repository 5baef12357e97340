"""The vectors no index covers yet: one growing matrix, searched whole."""

from __future__ import annotations

import numpy as np

MANY, GROUP = 4096, 64
"""From so many scores on, those worth sorting are found by the maxima of groups of this size."""


class Tail:
    """Rows are only ever added, so that a search may go on over the rows it saw while others are added.

    Args:
        dimension: Width.
        euclidean: Minus the squared distance as similarity, else the inner product.
    """

    def __init__(self, dimension: int, *, euclidean: bool) -> None:
        self.euclidean = euclidean
        self.matrix = np.empty((0, dimension), np.float32)
        self.slots = np.empty(0, np.int64)
        self.sequences = np.empty(0, np.int64)
        self.count = 0

    def add(self, slots: np.ndarray, sequences: np.ndarray, vectors: np.ndarray) -> None:
        """More rows (n,), (n,), (n, dim)."""
        stop = self.count + len(slots)
        if stop > len(self.slots):
            room = max(256, stop + stop // 2)
            for name in ("matrix", "slots", "sequences"):
                old = getattr(self, name)
                larger = np.empty((room, *old.shape[1:]), old.dtype)
                larger[: self.count] = old[: self.count]
                setattr(self, name, larger)
        self.matrix[self.count : stop] = vectors
        self.slots[self.count : stop], self.sequences[self.count : stop] = slots, sequences
        self.count = stop


def similarities(matrix: np.ndarray, query: np.ndarray, *, euclidean: bool) -> np.ndarray:
    """(n,) similarity of each row (n, dim) to the query (dim,)."""
    if not euclidean:
        return np.vecdot(matrix, query)
    difference = matrix - query
    return -np.einsum("ij,ij->i", difference, difference)


def top(scores: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k largest scores, best first."""
    count = len(scores)
    if k >= count:
        return (-scores).argsort(kind="stable")
    if count < MANY or k > count // (4 * GROUP):
        best = scores.argpartition(count - k)[count - k :]
        return best[(-scores[best]).argsort(kind="stable")]
    # the k-th largest maximum of groups (each every `step`-th score) is at most the k-th largest score
    step = count // GROUP
    maxima = scores[: step * GROUP].reshape(GROUP, step).max(0)
    best = np.flatnonzero(scores >= maxima[maxima.argpartition(step - k)[step - k]])
    return best[(-scores[best]).argsort(kind="stable")[:k]]

"""The vectors no index covers yet: one growing matrix, searched whole."""

from __future__ import annotations

import numpy as np


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

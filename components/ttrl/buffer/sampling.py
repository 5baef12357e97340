"""Proportional sampling over up to millions of weights: block sums above, running sums inside the touched blocks."""

from __future__ import annotations

import numpy as np


class ProportionalSampler:
    """Draws slot i with probability weight_i / sum; a weight of 0 is never drawn.

    Args:
        weights: (n,) non-negative.
        block: Slots a block.
        seed: Seed of the generator.
    """

    def __init__(self, weights: np.ndarray, *, block: int = 64, seed: int = 0) -> None:
        self.block = block
        self.generator = np.random.default_rng(seed)
        self.resize(weights)

    def resize(self, weights: np.ndarray) -> None:
        """Replace all weights."""
        room = max(1, -(-len(weights) // self.block)) * self.block
        padded = np.zeros(room)
        padded[: len(weights)] = weights
        self.weights = padded.reshape(-1, self.block)
        self.sums = self.weights.sum(1)

    def __len__(self) -> int:
        return self.weights.size

    def update(self, slots: np.ndarray, weights: np.ndarray) -> None:
        """Set the weights of slots; of a repeated slot the last weight counts."""
        rows, columns = np.divmod(slots, self.block)
        self.weights[rows, columns] = weights
        self.sums[rows] = self.weights[rows].sum(1)

    def flat(self) -> np.ndarray:
        """(slots,) all weights."""
        return self.weights.reshape(-1)

    def total(self) -> float:
        """Sum of all weights."""
        return float(self.sums.sum())

    def draw(self, count: int) -> np.ndarray:
        """(count,) slots, with replacement. The total must be positive."""
        cumulative = np.cumsum(self.sums)
        points = self.generator.random(count) * cumulative[-1]
        rows = np.minimum(np.searchsorted(cumulative, points, "right"), len(cumulative) - 1)
        rest = points - (cumulative[rows] - self.sums[rows])
        inside = self.weights[rows]
        columns = np.minimum((np.cumsum(inside, 1) <= rest[:, None]).sum(1), self.block - 1)
        # rounding at a block's end may land on a zero weight: take the block's heaviest instead
        dead = inside[np.arange(count), columns] <= 0
        if dead.any():
            columns[dead] = inside[dead].argmax(1)
        return rows * self.block + columns

    def draw_distinct(self, count: int) -> np.ndarray:
        """Up to `count` different slots, drawn one after another without replacement (repeats are drawn again)."""
        chosen: dict[int, float] = {}
        try:
            while len(chosen) < count and self.sums.max(initial=0.0) > 0.0:
                fresh = list(dict.fromkeys(self.draw(count - len(chosen)).tolist()))
                slots = np.asarray(fresh, np.int64)
                rows, columns = np.divmod(slots, self.block)
                chosen.update(zip(fresh, self.weights[rows, columns].tolist()))
                self.update(slots, np.zeros(len(slots)))
        finally:
            slots = np.fromiter(chosen, np.int64, len(chosen))
            self.update(slots, np.fromiter(chosen.values(), np.float64, len(chosen)))
        return slots

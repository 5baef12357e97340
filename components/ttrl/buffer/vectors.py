"""The hybrid embedding, and the matrix of all of them, in blocks so that growing never copies it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from components.ttrl.buffer.ahead import populate
from components.ttrl.buffer.pages import Pages, aligned

BLOCK_ROWS = 16_384
AHEAD_BYTES = 8 << 20
"""So much memory is asked for at a time, when half of it is left; never more than is filled already."""
TINY = np.float32(1e-36)
"""Smallest squared length: a vector of zeros stays one."""


def hybrid(
    visual: np.ndarray | None, text: np.ndarray | None, *, visual_weight: float = 0.7, normalise: bool = True
) -> np.ndarray:
    """The searched embedding: w * visual + (1 - w) * text, each of length one before and the sum after.

    Args:
        visual: (dim,) or (n, dim), or None.
        text: The same shape, or None. With one of the two missing, the other stands alone.
        visual_weight: w.
        normalise: False keeps the lengths (for the euclidean metric).

    Returns:
        float32 of the same shape.
    """
    if visual is None or text is None:
        given = visual if visual is not None else text
        if given is None:
            raise ValueError("neither a visual nor a text embedding")
        single = np.asarray(given, np.float32)
        return _unit(single) if normalise else single
    first, second = np.asarray(visual, np.float32), np.asarray(text, np.float32)
    if not normalise:
        return visual_weight * first + (1.0 - visual_weight) * second
    return _unit(visual_weight * _unit(first) + (1.0 - visual_weight) * _unit(second))


def _unit(array: np.ndarray) -> np.ndarray:
    return array / np.sqrt(np.maximum(np.vecdot(array, array), TINY))[..., None]


class VectorBlocks:
    """(slots, dim) float32, grown block by block.

    Args:
        dimension: Width of a row.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.blocks: list[np.ndarray] = []
        self._pages: Pages | None = None
        self._ahead = min(AHEAD_BYTES // (4 * dimension) + 1, BLOCK_ROWS)
        self._backed = 0
        """Slots for which memory was asked."""

    def reserve(self, slots: int) -> None:
        """Make room for slots 0 .. slots - 1."""
        while len(self.blocks) * BLOCK_ROWS < slots:
            shape = (BLOCK_ROWS, self.dimension)
            self.blocks.append(self._pages.zeros(*shape) if self._pages else aligned(*shape))

    @contextmanager
    def filling(self) -> Iterator[None]:
        """What room is made until this ends is filled until then, too."""
        self._pages = Pages()
        try:
            yield
        finally:
            self._pages.filled()
            self._pages = None

    def back(self, slots: int) -> None:
        """Slots 0 .. slots - 1 are filled: have memory for the next ones given in the background."""
        ahead = min(self._ahead, slots)
        if self._pages is not None or slots + ahead // 2 < self._backed:
            return
        first = max(slots, self._backed)
        self._backed = first + ahead
        self.reserve(self._backed)
        for start in range(first // BLOCK_ROWS * BLOCK_ROWS, self._backed, BLOCK_ROWS):
            populate(self.blocks[start // BLOCK_ROWS][max(first - start, 0) : self._backed - start])

    def write(self, slots: np.ndarray, rows: np.ndarray, *, first: int | None = None, unit: bool = False) -> None:
        """Set rows (n, dim) at slots (n,); of a repeated slot the last row counts.

        Args:
            slots: Where.
            rows: What.
            first: The slots are first, first + 1, ...
            unit: Scale each row to length one.
        """
        if unit:
            scale = (1.0 / np.sqrt(np.maximum(np.vecdot(rows, rows), TINY)))[:, None]
        if first is not None:
            block, row = divmod(first, BLOCK_ROWS)
            if row + len(rows) <= BLOCK_ROWS:  # the usual case: one after another in one block
                target = self.blocks[block][row : row + len(rows)]
                if unit:
                    np.multiply(rows, scale, out=target)
                else:
                    target[:] = rows
                return
        if unit:
            rows = rows * scale
        blocks = slots // BLOCK_ROWS
        for block in np.unique(blocks):
            chosen = blocks == block
            self.blocks[block][slots[chosen] % BLOCK_ROWS] = rows[chosen]

    def read(self, slots: np.ndarray) -> np.ndarray:
        """Rows (n, dim) of slots (n,)."""
        result = np.empty((len(slots), self.dimension), np.float32)
        blocks = slots // BLOCK_ROWS
        for block in np.unique(blocks):
            chosen = blocks == block
            result[chosen] = self.blocks[block][slots[chosen] % BLOCK_ROWS]
        return result

    def filled(self, slots: int) -> list[np.ndarray]:
        """The matrices of slots 0 .. slots - 1, one after another."""
        starts = range(0, slots, BLOCK_ROWS)
        return [block[: slots - start] for start, block in zip(starts, self.blocks)]

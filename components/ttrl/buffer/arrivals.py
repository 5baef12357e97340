"""Stored records on their way into the table and the matrix.

A commit only notes what it stored; whoever reads next has all of it filled in. Filling many at once costs a fraction of
filling each in its commit, and a writer does not pay for what nobody has asked for yet. Nobody sees the difference:
the table is reached through `State.rows`, which settles first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgpack
import numpy as np

from components.ttrl.buffer.log.frame import HEADER, Found
from components.ttrl.buffer.record import FIXED, FIXED_ROW, TEXT, VISUAL
from components.ttrl.buffer.rows import ROW, WHOLE_FIXED, Rows
from components.ttrl.buffer.vectors import VectorBlocks, hybrid

MOST, MOST_BYTES = 128, 4 << 20
"""So many wait at most: what is noted keeps its body in memory."""
SHARE = MOST_BYTES // MOST
"""Counted for each beside its bytes, so that one sum keeps both bounds."""
TAGS_KEPT = 4096
_F4 = np.dtype("<f4")


class Arrivals:
    """Records by slot, noted and not yet filled in. The caller holds the state lock.

    Args:
        rows: The table.
        vectors: The matrix.
        visual_weight: Share of the visual embedding in the searched one.
        cosine: Searched vectors have length one.
    """

    def __init__(self, rows: Rows, vectors: VectorBlocks, visual_weight: float, *, cosine: bool) -> None:
        self.rows, self.vectors, self.visual_weight, self.cosine = rows, vectors, visual_weight, cosine
        self.waiting: dict[int, Found] = {}
        self._load = 0
        self._tags_seen: dict[bytes, tuple[int, int, int]] = {}

    def note(self, slot: int, item: Found) -> None:
        """A record was stored for a slot in which none is waiting."""
        self.waiting[slot] = item
        self._load += SHARE + len(item.body)
        if self._load >= MOST_BYTES:
            self.settle()

    def settle(self) -> None:
        """Fill in everything that waits."""
        if not self.waiting:
            return
        slots, bodies = list(self.waiting), [item.body for item in self.waiting.values()]
        fixed = np.frombuffer(b"".join([body[: FIXED.size] for body in bodies]), FIXED_ROW)
        _, _, sequences, addresses, _, checksums = zip(*self.waiting.values())
        run = slots == list(range(slots[0], slots[0] + len(slots)))
        target = slice(slots[0], slots[0] + len(slots)) if run else np.array(slots)
        length = np.array([len(body) for body in bodies])
        table = np.zeros(len(slots), ROW)
        record = table["record"]
        table["sequence"], table["address"], table["size"] = sequences, addresses, HEADER.size + length + -length % 8
        record.view(WHOLE_FIXED)[:] = fixed.view(WHOLE_FIXED)
        record["origin"] = np.where(fixed["origin"] > 0, fixed["origin"], np.array(checksums, np.uint32))
        table["source"], table["subject"], table["label"] = self._tags(bodies, fixed)
        self.rows.put(target, table)
        self.vectors.reserve(self.rows.used)
        self.vectors.write(np.array(slots), self._searched(bodies, fixed), first=slots[0] if run else None,
                           unit=self.cosine)  # fmt: skip
        self.vectors.back(self.rows.used)
        self.waiting.clear()  # last: until then readers wait for the lock
        self._load = 0

    def _searched(self, bodies: list[bytes | memoryview], fixed: np.ndarray) -> np.ndarray:
        """(n, dim) searched vectors, of any length."""
        start, width = FIXED.size, 4 * self.vectors.dimension
        stop = start + width
        matrix = np.frombuffer(b"".join([body[start:stop] for body in bodies]), _F4).reshape(len(bodies), -1)
        both = np.flatnonzero(fixed["flags"] == VISUAL | TEXT)
        if len(both):
            text = np.frombuffer(b"".join([bodies[i][stop : stop + width] for i in both]), _F4).reshape(len(both), -1)
            matrix = matrix.copy()
            matrix[both] = hybrid(matrix[both], text, visual_weight=self.visual_weight, normalise=self.cosine)
        return matrix

    def _tags(self, bodies: list[bytes | memoryview], fixed: np.ndarray) -> Iterable[Any]:
        """Numbers of the sources, of the subjects and of the labels; the same strings come again and again."""
        known = self._tags_seen
        vectors = 1 + (fixed["flags"] == VISUAL | TEXT)
        starts = FIXED.size + 4 * self.vectors.dimension * vectors + 32 * fixed["frames"].astype(np.int64)
        stops = (starts + fixed["tagged"]).tolist()
        packed = [bytes(body[start:stop]) for body, start, stop in zip(bodies, starts.tolist(), stops)]
        if packed.count(packed[0]) == len(packed):
            return known.get(packed[0]) or self._numbered(packed[0])
        return zip(*[known.get(names) or self._numbered(names) for names in packed])

    def _numbered(self, packed: bytes) -> tuple[int, int, int]:
        names = self.rows.names
        source, subject, label = msgpack.unpackb(packed)
        tags = names["source"].code(source), names["subject"].code(subject), names["label"].code(label)
        if len(self._tags_seen) > TAGS_KEPT:
            self._tags_seen.clear()
        self._tags_seen[packed] = tags
        return tags

    def forget_names(self) -> None:
        """Drop the texts of sources, subjects and labels that no live record has."""
        self.settle()
        live = self.rows.live()
        self._tags_seen.clear()
        for column, names in self.rows.names.items():
            names.keep_only(set(np.unique(self.rows.columns[column][live]).tolist()))

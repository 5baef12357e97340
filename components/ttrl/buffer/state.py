"""Everything the buffer keeps in memory, and how one log entry changes it.

Live commits and recovery go through the same `apply`, so memory is always what a replay of the log would give.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable

from components.ttrl.buffer.arrivals import Arrivals
from components.ttrl.buffer.config import BufferConfig
from components.ttrl.buffer.frames import Frames
from components.ttrl.buffer.log.frame import Found, Kind, frame_size
from components.ttrl.buffer.record import FIXED, PEEK, PEEK_AT, TEXT, VISUAL
from components.ttrl.buffer.rows import Rows
from components.ttrl.buffer.vectors import VectorBlocks

PATCH = struct.Struct("<16sddffIIQ")
"""id, updated_s, priority override, confidence, reward, retrieval_count, success_count, sequence of the record."""
REMOVE = struct.Struct("<16sQBxHxxxx")
"""id, sequence of the record, reason, number of i64 that follow: the segments that still hold a version of it."""
REASONS = ("removed", "evicted", "expired", "erased")
MERGE_AT = 1 << 17
"""Notes of changed slots nobody has looked at lose their repetitions, so that they stay bounded by the slots."""
SEGMENT_SHIFT = 33
"""Of an address: the segment number lies above (adapter `file`)."""


class State:
    """Rows, vectors and frames. Whoever reads more than one thing holds `mutex`; so does whoever changes anything."""

    def __init__(self, config: BufferConfig) -> None:
        self.config = config
        self.mutex = threading.RLock()
        self._rows = Rows()
        self.vectors = VectorBlocks(config.dimension)
        """Rows of slots that were found through `rows`."""
        self._arrivals = Arrivals(self._rows, self.vectors, config.index.visual_weight,
                                  cosine=config.index.metric == "cosine")  # fmt: skip
        self.frames = Frames()
        self.sequence = 0
        """Highest sequence number seen."""
        self.record_bytes = 0
        """Of all live records."""
        self.shadow: dict[bytes, set[int]] = {}
        """Segments that hold superseded versions of a live key: what its removal must outlive."""
        self.version = 0
        """Grows with every removal and with every record that takes a slot used before: a search that scanned the
        table meanwhile may have seen half of either."""
        self.fresh: list[int] = []
        """Slots stored since the search last looked."""
        self.touched: list[int] = []
        """Slots whose priority changed since the sampler last looked."""

    @property
    def rows(self) -> Rows:
        """The table, all that was stored filled in."""
        self.settle()
        return self._rows

    def settle(self) -> None:
        """Fill in all that was stored."""
        if self._arrivals.waiting:
            with self.mutex:
                self._arrivals.settle()

    @property
    def slot_of(self) -> dict[bytes, int]:
        """Slots of all live keys, whether they are filled in or not: for writers, who need nothing else."""
        return self._rows.slot_of

    @property
    def live_bytes(self) -> int:
        """Bytes of live records and their frames in the store."""
        return self.record_bytes + self.frames.bytes

    def apply(self, entries: Iterable[Found]) -> None:
        """Apply entries in rising order of sequence number."""
        experience, blob, patch, remove = map(int, (Kind.EXPERIENCE, Kind.BLOB, Kind.PATCH, Kind.REMOVE))
        last, used = self.sequence, self._rows.used
        stored: list[int] = []
        for item in entries:
            kind, _, last, _, body, _ = item
            if kind == experience:
                stored.append(self._store(item, body))
            elif kind == blob:
                self.frames.apply(item)
            elif kind == patch:
                self._patch(item)
            elif kind == remove:
                self._remove(item)
        self.sequence = max(self.sequence, last)
        self.version += sum(slot < used for slot in stored)
        self.touched += stored
        self.fresh += stored
        for slots in (self.touched, self.fresh):
            if len(slots) > max(MERGE_AT, 2 * self._rows.used):
                slots[:] = list(set(slots))

    def _store(self, item: Found, body: bytes | memoryview) -> int:
        """Returns the slot."""
        key = bytes(body[:16])
        slot = self._rows.slot_of.get(key)
        flags, frames = PEEK.unpack_from(body, PEEK_AT)
        newer = slot is not None
        if slot is None:
            slot = self._rows.take(key)
        else:
            self._supersede(key, slot)
        if frames or newer:
            start = FIXED.size + 4 * self.config.dimension * (2 if flags == VISUAL | TEXT else 1)
            self.frames.refer(slot, body[start : start + 32 * frames])
        self.record_bytes += frame_size(len(body))
        self._arrivals.note(slot, item)
        return slot

    def _filled(self, slot: int) -> Rows:
        """The table, that slot filled in."""
        if slot in self._arrivals.waiting:
            self._arrivals.settle()
        return self._rows

    def _supersede(self, key: bytes, slot: int) -> None:
        """A newer version of a live record comes."""
        rows = self._filled(slot)
        self.record_bytes -= int(rows.size[slot])
        self.shadow.setdefault(key, set()).add(int(rows.address[slot]) >> SEGMENT_SHIFT)

    def _patch(self, item: Found) -> None:
        key, updated, override, confidence, reward, retrieved, succeeded, _ = PATCH.unpack_from(item.body)
        slot = self.slot_of.get(key)
        if slot is None or self._filled(slot).sequence[slot] > item.sequence:
            return
        columns = self._rows.columns
        columns["updated"][slot], columns["override"][slot] = updated, override
        columns["confidence"][slot], columns["reward"][slot] = confidence, reward
        columns["retrieved"][slot], columns["succeeded"][slot] = retrieved, succeeded
        columns["patched"][slot] = item.sequence
        self.touched.append(slot)

    def _remove(self, item: Found) -> None:
        key = bytes(item.body[:16])
        slot = self.slot_of.get(key)
        if slot is not None and self._filled(slot).sequence[slot] < item.sequence:
            self.forget(slot)

    def forget(self, slot: int) -> None:
        """Drop a live record from memory."""
        rows = self._filled(slot)
        key = rows.key(slot)
        self.record_bytes -= int(rows.size[slot])
        self.frames.release(slot)
        self.shadow.pop(key, None)
        rows.release(key)
        self.version += 1
        self.touched.append(slot)

    def forget_names(self) -> None:
        """Drop the texts of sources, subjects and labels that no live record has."""
        self._arrivals.forget_names()

    def holders(self, slot: int) -> list[int]:
        """Segments with any version of a live record."""
        here = int(self.rows.address[slot]) >> SEGMENT_SHIFT
        return sorted(self.shadow.get(self.rows.key(slot), set()) | {here})

    def is_live(self, item: Found) -> bool:
        """Whether an experience, patch or blob in the store is the one in force (removals: see compaction)."""
        if item.kind == Kind.BLOB:
            blob = self.frames.blobs.get(bytes(item.body[:32]))
            return blob is not None and blob.address == item.address
        slot = self.rows.slot_of.get(bytes(item.body[:16]))
        if slot is None:
            return False
        if item.kind == Kind.EXPERIENCE:
            return int(self.rows.address[slot]) == item.address
        return item.kind == Kind.PATCH and int(self.rows.patched[slot]) == item.sequence

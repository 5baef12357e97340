"""Everything the buffer keeps in memory, and how one log entry changes it.

Live commits and recovery go through the same `apply`, so memory is always what a replay of the log would give.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import msgpack
import numpy as np

from components.ttrl.buffer.config import BufferConfig
from components.ttrl.buffer.frames import Frames
from components.ttrl.buffer.log.frame import Found, Kind, frame_size
from components.ttrl.buffer.record import FIXED, FLAGS_AT, PEEK, PEEK_AT, TEXT, VISUAL
from components.ttrl.buffer.rows import ORIGIN_AT, ORIGIN_FORM, ROW_FORM, Rows
from components.ttrl.buffer.vectors import VectorBlocks, hybrid

PATCH = struct.Struct("<16sddffIIQ")
"""id, updated_s, priority override, confidence, reward, retrieval_count, success_count, sequence of the record."""
REMOVE = struct.Struct("<16sQBxHxxxx")
"""id, sequence of the record, reason, number of i64 that follow: the segments that still hold a version of it."""
_F4 = np.dtype("<f4")
REASONS = ("removed", "evicted", "expired", "erased")
BATCH = 4096
MERGE_AT = 1 << 17
"""Notes of changed slots nobody has looked at lose their repetitions, so that they stay bounded by the slots."""
SEGMENT_SHIFT = 33
"""Of an address: the segment number lies above (adapter `file`)."""


class State:
    """Rows, vectors and frames. The caller holds the state lock."""

    def __init__(self, config: BufferConfig) -> None:
        self.config = config
        self.rows = Rows()
        self.vectors = VectorBlocks(config.dimension)
        self.frames = Frames()
        self.sequence = 0
        """Highest sequence number seen."""
        self.record_bytes = 0
        """Of all live records."""
        self.shadow: dict[bytes, set[int]] = {}
        """Segments that hold superseded versions of a live key: what its removal must outlive."""
        self._tags_seen: dict[bytes, tuple[int, int, int]] = {}
        dim = config.dimension
        self._vectors_end = {0: FIXED.size, VISUAL: FIXED.size + 4 * dim, TEXT: FIXED.size + 4 * dim,
                             VISUAL | TEXT: FIXED.size + 8 * dim}  # fmt: skip
        self.version = 0
        """Grows with every change of what a search can return."""
        self.fresh: list[int] = []
        """Slots stored since the search last looked."""
        self.touched: list[int] = []
        """Slots whose priority changed since the sampler last looked."""

    @property
    def live_bytes(self) -> int:
        """Bytes of live records and their frames in the store."""
        return self.record_bytes + self.frames.bytes

    def apply(self, entries: Iterable[Found]) -> None:
        """Apply entries in rising order of sequence number."""
        experience, blob, patch, remove = map(int, (Kind.EXPERIENCE, Kind.BLOB, Kind.PATCH, Kind.REMOVE))
        batch: list[Found] = []
        last = self.sequence
        for item in entries:
            kind = item.kind
            last = item.sequence
            if kind == experience:
                batch.append(item)
                if len(batch) < BATCH:
                    continue
            if batch:
                self._put(batch)
                batch = []
            if kind == blob:
                self.frames.apply(item)
            elif kind == patch:
                self._patch(item)
            elif kind == remove:
                self._remove(item)
        if batch:
            self._put(batch)
        self.sequence = max(self.sequence, last)
        for slots in (self.touched, self.fresh):
            if len(slots) > max(MERGE_AT, 2 * self.rows.used):
                slots[:] = list(set(slots))

    def _put(self, batch: Sequence[Found]) -> None:
        """Store records: rows one by one (by `struct`, the fastest way to fill one), their vectors at once."""
        rows, ends, known, total = self.rows, self._vectors_end, self._tags_seen, 0
        first, slots, memory, slot_of = rows.used, [], rows.reserve(len(batch)), rows.slot_of
        for _, _, sequence, address, body, checksum in batch:
            fixed = bytes(body[: FIXED.size])
            key = fixed[:16]
            before = slot_of.get(key)
            slot = rows.take(key) if before is None else before
            if before is not None:
                self._supersede(key, before)
            origin, flags, frames, _, tagged = PEEK.unpack_from(fixed, PEEK_AT)
            end = ends[flags]
            tail = end + 32 * frames
            packed = bytes(body[tail : tail + tagged])
            size = frame_size(len(body))
            row = slot * ROW_FORM.size
            ROW_FORM.pack_into(
                memory, row, sequence, address, size, 0, fixed, *(known.get(packed) or self._tags(packed))
            )
            if origin == 0:
                ORIGIN_FORM.pack_into(memory, row + ORIGIN_AT, checksum)
            if frames or before is not None:
                self.frames.refer(slot, body[end:tail])
            slots.append(slot)
            total += size
        self.record_bytes += total
        self.vectors.reserve(rows.used)
        if len(slots) == 1 and flags != VISUAL | TEXT:
            vector = np.frombuffer(body, _F4, self.config.dimension, FIXED.size)
            self.vectors.set(slot, vector, unit=self._cosine)
        else:
            run = rows.used - first == len(slots)  # all of them in new slots, one after another
            self._put_vectors([item.body for item in batch], slots, first if run else None)
        self.touched += slots
        self.fresh += slots
        self.version += 1

    def _put_vectors(self, bodies: Sequence[bytes | memoryview], slots: list[int], first: int | None) -> None:
        """Write the searched vectors of records into slots (n,), which follow each other from `first`, if given."""
        start, width, cosine = FIXED.size, 4 * self.config.dimension, self._cosine
        stop = start + width
        matrix = np.frombuffer(b"".join([body[start:stop] for body in bodies]), _F4).reshape(len(slots), -1)
        both = [i for i, body in enumerate(bodies) if body[FLAGS_AT] == VISUAL | TEXT]
        if both:
            text = np.stack([np.frombuffer(bodies[i], _F4, self.config.dimension, stop) for i in both])
            matrix = matrix.copy()
            matrix[both] = hybrid(matrix[both], text, visual_weight=self.config.index.visual_weight, normalise=cosine)
        self.vectors.write(np.asarray(slots), matrix, first=first, unit=cosine)

    def _tags(self, packed: bytes) -> tuple[int, int, int]:
        """Numbers of source, subject and label; the same three strings come again and again."""
        names = self.rows.names
        source, subject, label = msgpack.unpackb(packed)
        tags = names["source"].code(source), names["subject"].code(subject), names["label"].code(label)
        if len(self._tags_seen) > BATCH:
            self._tags_seen.clear()
        self._tags_seen[packed] = tags
        return tags

    def forget_names(self) -> None:
        """Drop the texts of sources, subjects and labels that no live record has."""
        live = self.rows.live()
        self._tags_seen.clear()
        for column, names in self.rows.names.items():
            names.keep_only(set(np.unique(self.rows.columns[column][live]).tolist()))

    @property
    def _cosine(self) -> bool:
        return self.config.index.metric == "cosine"

    def _patch(self, item: Found) -> None:
        key, updated, override, confidence, reward, retrieved, succeeded, _ = PATCH.unpack_from(item.body)
        slot = self.rows.slot_of.get(key)
        if slot is None or self.rows.sequence[slot] > item.sequence:
            return
        columns = self.rows.columns
        columns["updated"][slot], columns["override"][slot] = updated, override
        columns["confidence"][slot], columns["reward"][slot] = confidence, reward
        columns["retrieved"][slot], columns["succeeded"][slot] = retrieved, succeeded
        columns["patched"][slot] = item.sequence
        self.touched.append(slot)

    def _supersede(self, key: bytes, slot: int) -> None:
        """A newer version of a live record comes."""
        self.record_bytes -= int(self.rows.size[slot])
        self.shadow.setdefault(key, set()).add(int(self.rows.address[slot]) >> SEGMENT_SHIFT)

    def _remove(self, item: Found) -> None:
        key = bytes(item.body[:16])
        slot = self.rows.slot_of.get(key)
        if slot is not None and self.rows.sequence[slot] < item.sequence:
            self.forget(slot)

    def forget(self, slot: int) -> None:
        """Drop a live record from memory."""
        key = self.rows.key(slot)
        self.record_bytes -= int(self.rows.size[slot])
        self.frames.release(slot)
        self.shadow.pop(key, None)
        self.rows.release(key)
        self.version += 1
        self.touched.append(slot)

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

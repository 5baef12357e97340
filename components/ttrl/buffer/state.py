"""Everything the buffer keeps in memory, and how one log entry changes it.

Live commits and recovery go through the same `apply`, so memory is always what a replay of the log would give.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgpack
import numpy as np

from components.ttrl.buffer.config import BufferConfig
from components.ttrl.buffer.log.frame import Found, Kind, frame_size
from components.ttrl.buffer.record import FIXED, TEXT, VISUAL
from components.ttrl.buffer.rows import Rows
from components.ttrl.buffer.vectors import VectorBlocks, hybrid

PATCH = struct.Struct("<16sddffIIQ")
"""id, updated_s, priority override, confidence, reward, retrieval_count, success_count, sequence of the record."""
REMOVE = struct.Struct("<16sQBxHxxxx")
"""id, sequence of the record, reason, number of i64 that follow: the segments that still hold a version of it."""
REASONS = ("removed", "evicted", "expired", "erased")
BATCH = 4096
MERGE_AT = 4096
"""Notes of changed slots nobody has looked at are merged, so that they stay bounded by the number of slots."""
SEGMENT_SHIFT = 33
"""Of an address: the segment number lies above (adapter `file`)."""
ABSENT = -1
"""Address of a frame that is referred to and not there."""


@dataclass(slots=True)
class Blob:
    """A stored frame."""

    address: int
    size: int
    references: int = 0


class State:
    """Rows, vectors and frames. The caller holds the state lock."""

    def __init__(self, config: BufferConfig) -> None:
        self.config = config
        self.rows = Rows()
        self.vectors = VectorBlocks(config.dimension)
        self.blobs: dict[bytes, Blob] = {}
        self.frames_of: dict[int, tuple[bytes, ...]] = {}
        self.sequence = 0
        """Highest sequence number seen."""
        self.live_bytes = 0
        self.shadow: dict[bytes, set[int]] = {}
        """Segments that hold superseded versions of a live key: what its removal must outlive."""
        self.version = 0
        """Grows with every change of what a search can return."""
        self.fresh: list[np.ndarray] = []
        """Slots stored since the search last looked."""
        self.touched: list[np.ndarray] = []
        """Slots whose priority changed since the sampler last looked."""

    def apply(self, entries: Iterable[Found]) -> None:
        """Apply entries in rising order of sequence number."""
        batch: list[Found] = []
        for item in entries:
            if item.kind == Kind.EXPERIENCE:
                batch.append(item)
                if len(batch) < BATCH:
                    continue
            if batch:
                self._put(batch)
                batch = []
            if item.kind == Kind.BLOB:
                self._blob(item)
            elif item.kind == Kind.PATCH:
                self._patch(item)
            elif item.kind == Kind.REMOVE:
                self._remove(item)
            self.sequence = max(self.sequence, item.sequence)
        if batch:
            self._put(batch)
        for slots in (self.touched, self.fresh):
            if len(slots) > MERGE_AT:
                slots[:] = [np.unique(np.concatenate(slots))]

    def _put(self, batch: Sequence[Found]) -> None:
        rows, dim = self.rows, self.config.dimension
        fixed = [FIXED.unpack_from(item.body) for item in batch]
        last = {f[0]: i for i, f in enumerate(fixed)}  # of two versions in one batch the later one stands
        if len(last) < len(batch):
            keep = sorted(last.values())
            batch, fixed = [batch[i] for i in keep], [fixed[i] for i in keep]
        dropped = [self._supersede(f[0], rows.slot_of[f[0]]) for f in fixed if f[0] in rows.slot_of]
        slots = rows.take([f[0] for f in fixed])
        self.vectors.reserve(rows.used)
        names, matrix = rows.names, np.empty((len(batch), dim), np.float32)
        tags = np.empty((len(batch), 3), np.int32)
        for i, (item, f) in enumerate(zip(batch, fixed)):
            flags, count, tagged = f[11], f[12], f[14]
            visual = np.frombuffer(item.body, "<f4", dim, FIXED.size) if flags & VISUAL else None
            offset = FIXED.size + (4 * dim if flags & VISUAL else 0)
            text = np.frombuffer(item.body, "<f4", dim, offset) if flags & TEXT else None
            offset += 4 * dim if flags & TEXT else 0
            if visual is not None and text is not None:
                visual = hybrid(visual, text, visual_weight=self.config.index.visual_weight, normalise=self._cosine)
            matrix[i] = visual if visual is not None else text
            if count:
                self.take_frames(int(slots[i]), item.body[offset : offset + 32 * count])
            source, subject, label = msgpack.unpackb(item.body[offset + 32 * count : offset + 32 * count + tagged])
            tags[i] = names["source"].code(source), names["subject"].code(subject), names["label"].code(label)
        for names_before in dropped:
            self._drop(names_before)
        if self._cosine:
            norm = np.sqrt(np.einsum("ij,ij->i", matrix, matrix))
            matrix /= np.where(norm > 0, norm, 1.0)[:, None]
        self.vectors.write(slots, matrix)
        columns = list(zip(*fixed))
        sizes = [frame_size(len(item.body)) for item in batch]
        for name, values in (
            ("sequence", [item.sequence for item in batch]), ("address", [item.address for item in batch]),
            ("size", sizes), ("patched", 0), ("created", columns[1]), ("updated", columns[2]),
            ("override", columns[3]), ("confidence", columns[4]), ("reward", columns[5]), ("retrieved", columns[6]),
            ("succeeded", columns[7]), ("origin", [f[8] or item.body_crc for f, item in zip(fixed, batch)]),
            ("flags", columns[11]), ("source", tags[:, 0]), ("subject", tags[:, 1]), ("label", tags[:, 2]),
        ):  # fmt: skip
            rows.columns[name][slots] = values
        self.live_bytes += sum(sizes)
        self.touched.append(slots)
        self.fresh.append(slots)
        self.version += 1
        self.sequence = max(self.sequence, batch[-1].sequence)

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
        self.touched.append(np.array([slot]))

    def _supersede(self, key: bytes, slot: int) -> tuple[bytes, ...]:
        """A newer version of a live record comes: forget the size of the old one; returns its frames."""
        self.live_bytes -= int(self.rows.size[slot])
        self.shadow.setdefault(key, set()).add(int(self.rows.address[slot]) >> SEGMENT_SHIFT)
        return self.frames_of.pop(slot, ())

    def _remove(self, item: Found) -> None:
        key = bytes(item.body[:16])
        slot = self.rows.slot_of.get(key)
        if slot is not None and self.rows.sequence[slot] < item.sequence:
            self.forget(slot)

    def forget(self, slot: int) -> None:
        """Drop a live record from memory."""
        key = self.rows.key(slot)
        self.live_bytes -= int(self.rows.size[slot])
        self._drop(self.frames_of.pop(slot, ()))
        self.shadow.pop(key, None)
        self.rows.release(key)
        self.version += 1
        self.touched.append(np.array([slot]))

    def holders(self, slot: int) -> list[int]:
        """Segments with any version of a live record."""
        here = int(self.rows.address[slot]) >> SEGMENT_SHIFT
        return sorted(self.shadow.get(self.rows.key(slot), set()) | {here})

    def is_live(self, item: Found) -> bool:
        """Whether an experience, patch or blob in the store is the one in force (removals: see compaction)."""
        if item.kind == Kind.BLOB:
            blob = self.blobs.get(bytes(item.body[:32]))
            return blob is not None and blob.address == item.address
        slot = self.rows.slot_of.get(bytes(item.body[:16]))
        if slot is None:
            return False
        if item.kind == Kind.EXPERIENCE:
            return int(self.rows.address[slot]) == item.address
        return item.kind == Kind.PATCH and int(self.rows.patched[slot]) == item.sequence

    def _blob(self, item: Found) -> None:
        digest, size = bytes(item.body[:32]), frame_size(len(item.body))
        blob = self.blobs.setdefault(digest, Blob(ABSENT, 0))
        self.live_bytes += size - blob.size
        blob.address, blob.size = item.address, size

    def take_frames(self, slot: int, digests: bytes | memoryview) -> None:
        """Count the references of the record in a slot to its frames."""
        names = tuple(bytes(digests[i : i + 32]) for i in range(0, len(digests), 32))
        self.frames_of[slot] = names
        for name in names:
            self.blobs.setdefault(name, Blob(ABSENT, 0)).references += 1

    def _drop(self, names: Iterable[bytes]) -> None:
        for name in names:
            blob = self.blobs[name]
            blob.references -= 1
            if blob.references == 0:
                del self.blobs[name]
                self.live_bytes -= blob.size

    def has_blob(self, digest: bytes) -> bool:
        """Whether a frame is stored and in use."""
        blob = self.blobs.get(digest)
        return blob is not None and blob.address != ABSENT

    def settle(self) -> int:
        """After recovery: drop frames nobody refers to; returns how many are referred to and missing."""
        for digest in [d for d, blob in self.blobs.items() if blob.references == 0]:
            self.live_bytes -= self.blobs.pop(digest).size
        return sum(blob.address == ABSENT for blob in self.blobs.values())

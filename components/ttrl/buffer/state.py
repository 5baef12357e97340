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
REMOVE = struct.Struct("<16sQB7x")
"""id, sequence of the record, reason."""
REASONS = ("removed", "evicted", "expired", "erased")
BATCH = 4096


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

    def _put(self, batch: Sequence[Found]) -> None:
        rows, dim = self.rows, self.config.dimension
        fixed = [FIXED.unpack_from(item.body) for item in batch]
        last = {f[0]: i for i, f in enumerate(fixed)}  # of two versions in one batch the later one stands
        if len(last) < len(batch):
            keep = sorted(last.values())
            batch, fixed = [batch[i] for i in keep], [fixed[i] for i in keep]
        for f in fixed:
            slot = rows.slot_of.get(f[0])
            if slot is not None:
                self.live_bytes -= int(rows.size[slot])
                self._drop_frames(slot)
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
                self._take_frames(int(slots[i]), item.body[offset : offset + 32 * count])
            source, subject, label = msgpack.unpackb(item.body[offset + 32 * count : offset + 32 * count + tagged])
            tags[i] = names["source"].code(source), names["subject"].code(subject), names["label"].code(label)
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

    def _remove(self, item: Found) -> None:
        key, _, _ = REMOVE.unpack_from(item.body)
        slot = self.rows.slot_of.get(key)
        if slot is None or self.rows.sequence[slot] > item.sequence:
            return
        self.live_bytes -= int(self.rows.size[slot])
        self._drop_frames(slot)
        self.rows.release(key)
        self.touched.append(np.array([slot]))

    def _blob(self, item: Found) -> None:
        digest = bytes(item.body[:32])
        known = self.blobs.get(digest)
        if known is None:
            self.blobs[digest] = Blob(item.address, frame_size(len(item.body)))
            self.live_bytes += frame_size(len(item.body))
        else:
            known.address = item.address

    def _take_frames(self, slot: int, digests: memoryview) -> None:
        names = tuple(bytes(digests[i : i + 32]) for i in range(0, len(digests), 32))
        self.frames_of[slot] = names
        for name in names:
            blob = self.blobs.get(name)
            if blob is not None:
                blob.references += 1

    def _drop_frames(self, slot: int) -> None:
        for name in self.frames_of.pop(slot, ()):
            blob = self.blobs.get(name)
            if blob is not None:
                blob.references -= 1
                if blob.references == 0:
                    del self.blobs[name]
                    self.live_bytes -= blob.size

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
from components.ttrl.buffer.log.heads import HEAD
from components.ttrl.buffer.record import FIXED, TEXT, VISUAL
from components.ttrl.buffer.rows import ROW, Rows
from components.ttrl.buffer.vectors import BLOCK_ROWS, VectorBlocks, hybrid

PATCH = struct.Struct("<16sddffIIQ")
"""id, updated_s, priority override, confidence, reward, retrieval_count, success_count, sequence of the record."""
REMOVE = struct.Struct("<16sQBxHxxxx")
"""id, sequence of the record, reason, number of i64 that follow: the segments that still hold a version of it."""
FIXED_ROW = np.dtype([(name, HEAD.fields[name][0]) for name in HEAD.names[9:]])  # type: ignore[index]
"""The fixed part of a record, as in the log."""
assert FIXED_ROW.itemsize == FIXED.size
SHARED = ("created", "updated", "override", "confidence", "reward", "retrieved", "succeeded", "flags")
"""Columns that are copied from the record as they are."""
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
        self._tags_seen: dict[bytes, tuple[int, int, int]] = {}
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
        """Store records, several at once where they come at once: one pass of each numpy call."""
        keys = [bytes(item.body[:16]) for item in batch]
        if len(set(keys)) < len(keys):  # of two versions in one batch the later one stands
            last = {key: i for i, key in enumerate(keys)}
            batch, keys = [batch[i] for i in sorted(last.values())], sorted(last, key=last.__getitem__)
        rows = self.rows
        dropped = [self._supersede(key, rows.slot_of[key]) for key in keys if key in rows.slot_of]
        slots = rows.take(keys)
        self.vectors.reserve(rows.used)
        if len(batch) == 1:
            self._put_one(batch[0], int(slots[0]))
        else:
            self._put_many(batch, slots)
        for names_before in dropped:
            self._drop(names_before)
        self.touched.append(slots)
        self.fresh.append(slots)
        self.version += 1
        self.sequence = max(self.sequence, batch[-1].sequence)

    def _put_one(self, item: Found, slot: int) -> None:
        body = item.body
        (_, created, updated, override, confidence, reward, retrieved, succeeded, origin, dim, _, flags, frames, _,
         tagged, _) = FIXED.unpack_from(body)  # fmt: skip
        size = frame_size(len(body))
        end = FIXED.size + 4 * dim * (2 if flags == VISUAL | TEXT else 1)
        source, subject, label = self._tags(body, end + 32 * frames, tagged)
        self.rows.table[slot] = (
            item.sequence, item.address, size, 0, created, updated, override, confidence, reward, retrieved, succeeded,
            origin or item.body_crc, source, subject, label, flags,
        )  # fmt: skip
        block, row = divmod(slot, BLOCK_ROWS)
        vector = np.frombuffer(body, "<f4", dim, FIXED.size)
        if flags == VISUAL | TEXT:
            text = np.frombuffer(body, "<f4", dim, FIXED.size + 4 * dim)
            vector = hybrid(vector, text, visual_weight=self.config.index.visual_weight, normalise=self._cosine)
        target = self.vectors.blocks[block][row]
        if self._cosine:
            norm = float(np.sqrt(np.dot(vector, vector)))
            np.multiply(vector, 1.0 / norm if norm > 0 else 1.0, out=target)
        else:
            target[:] = vector
        if frames:
            self.take_frames(slot, body[end : end + 32 * frames])
        self.live_bytes += size

    def _put_many(self, batch: Sequence[Found], slots: np.ndarray) -> None:
        dim, count = self.config.dimension, len(batch)
        bodies = [item.body for item in batch]
        head = np.frombuffer(b"".join([body[: FIXED.size] for body in bodies]), FIXED_ROW)
        table = np.zeros(count, ROW)
        for name in SHARED:
            table[name] = head[name]
        table["sequence"] = [item.sequence for item in batch]
        table["address"] = [item.address for item in batch]
        sizes = [frame_size(len(body)) for body in bodies]
        table["size"] = sizes
        table["origin"] = np.where(head["origin"] > 0, head["origin"], [item.body_crc for item in batch])
        stop = FIXED.size + 4 * dim
        matrix = np.frombuffer(bytearray().join([body[FIXED.size : stop] for body in bodies]), "<f4").reshape(
            count, dim
        )
        both = np.flatnonzero(head["flags"] == VISUAL | TEXT)
        if len(both):
            text = np.stack([np.frombuffer(bodies[i], "<f4", dim, stop) for i in both])
            matrix[both] = hybrid(matrix[both], text, visual_weight=self.config.index.visual_weight,
                                  normalise=self._cosine)  # fmt: skip
        if self._cosine:
            norm = np.sqrt(np.einsum("ij,ij->i", matrix, matrix))
            matrix /= np.where(norm > 0, norm, 1.0)[:, None]
        self.vectors.write(slots, matrix)
        ends = np.where(head["flags"] == VISUAL | TEXT, stop + 4 * dim, stop).tolist()
        frames, tagged = head["frames"].tolist(), head["tagged"].tolist()
        tags = [self._tags(bodies[i], ends[i] + 32 * frames[i], tagged[i]) for i in range(count)]
        table["source"], table["subject"], table["label"] = zip(*tags)
        self.rows.table[slots] = table
        for i in np.flatnonzero(head["frames"]).tolist():
            self.take_frames(int(slots[i]), bodies[i][ends[i] : ends[i] + 32 * frames[i]])
        self.live_bytes += sum(sizes)

    def _tags(self, body: bytes | memoryview, offset: int, length: int) -> tuple[int, int, int]:
        """Numbers of source, subject and label; the same three strings come again and again."""
        packed = bytes(body[offset : offset + length])
        known = self._tags_seen.get(packed)
        if known is None:
            names = self.rows.names
            source, subject, label = msgpack.unpackb(packed)
            known = names["source"].code(source), names["subject"].code(subject), names["label"].code(label)
            if len(self._tags_seen) > BATCH:
                self._tags_seen.clear()
            self._tags_seen[packed] = known
        return known

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

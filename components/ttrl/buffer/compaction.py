"""Compaction of the `file` adapter: the live frames of segments are copied into one new segment, and the old ones
deleted.

At every moment the log on disk is complete: the new segment appears by rename, verified, and its first frame names
the old ones as gone; only then are they deleted. A crash in between leaves both or the new one.

What is copied: experiences, blobs and patches in force; removals as long as a segment still holds an older version of
what they removed. Records keep their sequence numbers.
"""

from __future__ import annotations

import logging
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from crc32c import crc32c

from components.ttrl.buffer.disk import Disk, write_all
from components.ttrl.buffer.errors import BufferDamagedError
from components.ttrl.buffer.log.frame import Entry, Found, Kind, encode, entry
from components.ttrl.buffer.log.reader import SegmentScan, frames
from components.ttrl.buffer.log.segment import opening_entry
from components.ttrl.buffer.state import REASONS, REMOVE, State
from components.ttrl.buffer.store_file import SHIFT, FileStore

log = logging.getLogger(__name__)
SCRATCH = "compaction.tmp"
CHUNK = 1 << 20


@dataclass(frozen=True)
class CompactionReport:
    """What one run did."""

    segments: tuple[int, ...]
    bytes_before: int
    bytes_after: int
    damaged_frames: int


def candidates(state: State, store: FileStore, dead_share: float, io: threading.RLock) -> list[int]:
    """Segments worth rewriting together: with too many dead bytes, or several that are much too small.

    Only the extents are taken under the commit lock `io`: counting what lives takes a pass over memory, and a little
    that dies meanwhile is found the next time.
    """
    with io:
        extents = [(number, end) for number, end, _ in store.extents() if number != store.active and end > 0]
    if not extents:
        return []
    live = live_bytes(state, max(number for number, _ in extents) + 1)
    dead = [n for n, end in extents if 1.0 - (live[n] + store.segments[n].kept) / end > dead_share]
    small = [n for n, end in extents if end < store.segment_bytes // 4 and n not in dead]
    chosen = sorted(dead + (small if len(small) >= 8 else []))
    total = 0
    result: list[int] = []
    for number in chosen:
        total += int(live[number])
        if result and total > store.segment_bytes:
            break
        result.append(number)
    return result


def live_bytes(state: State, count: int) -> np.ndarray:
    """(count,) bytes of live records and frames in each segment."""
    rows = state.rows
    slots = rows.live()
    numbers = (rows.address[slots] >> SHIFT).astype(np.int64)
    keep = numbers < count
    total = np.bincount(numbers[keep], rows.size[slots][keep], minlength=count)
    for blob in list(state.frames.blobs.values()):
        if blob.address >= 0 and blob.address >> SHIFT < count:
            total[blob.address >> SHIFT] += blob.size
    return total


class Compaction:
    """One rewrite of some sealed segments.

    Args:
        state: Memory; guarded by `mutex`.
        store: The log.
        disk: File layer.
        mutex: The state lock.
        io: The commit lock.
        bytes_per_s: I/O budget; 0 for none.
    """

    def __init__(
        self, state: State, store: FileStore, disk: Disk, mutex: threading.RLock, io: threading.RLock, bytes_per_s: int
    ) -> None:  # fmt: skip
        self.state, self.store, self.disk, self.mutex, self.io = state, store, disk, mutex, io
        self.bytes_per_s = bytes_per_s

    def run(
        self, numbers: Sequence[int], relog: Callable[[list[Entry]], None], stop: Callable[[], bool] = lambda: False
    ) -> CompactionReport | None:
        """Rewrite segments; None where `stop` said so. The caller writes a snapshot and then calls `finish`.

        Args:
            numbers: Sealed segments.
            relog: Appends entries to the log (called with the commit lock held).
            stop: Asked between chunks.

        Raises:
            OSError: nothing has changed.
        """
        scratch = self.store.directory / SCRATCH
        if scratch.exists():
            self.disk.unlink(scratch)
        descriptor = self.disk.create(scratch)
        try:
            copied, end, crc, kept, damaged = self._copy(numbers, descriptor, stop)
            if stop():
                return None
            self.disk.sync(descriptor)
            self._verify(scratch, end, crc)
            with self.io:
                number = self.store.next_number()
                segment = self.store.adopt(number, scratch, end, crc)
                self._repoint(number, copied, numbers, relog)
                segment.kept = kept
        finally:
            self.disk.close(descriptor)
            if scratch.exists():
                self.disk.unlink(scratch)
        before = sum(self.store.segments[n].size() for n in numbers)
        return CompactionReport(tuple(numbers), before, end, damaged)

    def _copy(
        self, numbers: Sequence[int], descriptor: int, stop: Callable[[], bool]
    ) -> tuple[list[tuple[int, bytes, int, int]], int, int, int, int]:
        """Write the live frames; returns (kind, key, old address, new offset) of each, the end, its checksum, the bytes
        kept for no record's or image's sake (opening, removals, changed numbers), and the damages."""
        opening = opening_entry(self.store.buffer_id, self.store.gone | set(numbers))
        parts: list[bytes] = list(encode(opening, 0))
        pending = offset = kept = sum(map(len, parts))
        written = crc = damaged = 0
        copied: list[tuple[int, bytes, int, int]] = []
        for number in numbers:
            scan = SegmentScan()
            segment = self.store.segments[number]
            for found in frames(segment.view()[: segment.end], number << SHIFT, scan):
                if not self._keep(found, set(numbers)):
                    continue
                frame = encode(Entry(found.kind, bytes(found.body), found.body_crc), found.sequence)
                copied.append(
                    (found.kind, bytes(found.body[: 32 if found.kind == Kind.BLOB else 16]), found.address, offset)
                )
                parts.extend(frame)
                size = sum(map(len, frame))
                offset, pending = offset + size, pending + size
                kept += size if found.kind in (Kind.REMOVE, Kind.PATCH) else 0
                if pending >= CHUNK:
                    data = b"".join(parts)
                    write_all(self.disk, descriptor, data, written)
                    crc, written, parts, pending = crc32c(data, crc), written + len(data), [], 0
                    if stop():
                        return [], 0, 0, 0, 0
                    if self.bytes_per_s:
                        time.sleep(len(data) / self.bytes_per_s)
            damaged += len(scan.damages)
        data = b"".join(parts)
        write_all(self.disk, descriptor, data, written)
        return copied, offset, crc32c(data, crc), kept, damaged

    def _keep(self, found: Found, numbers: set[int]) -> bool:
        if found.kind == Kind.SEGMENT:
            return False
        if found.kind == Kind.REMOVE:
            _, _, _, count = REMOVE.unpack_from(found.body)
            holders = struct.unpack_from(f"<{count}q", found.body, REMOVE.size)
            return any(n in self.store.segments and n not in numbers for n in holders)
        with self.mutex:
            return self.state.is_live(found)

    def _verify(self, path: Path, end: int, crc: int) -> None:
        data = path.read_bytes()
        if len(data) != end or crc32c(data) != crc:
            raise BufferDamagedError(f"{path} reads back other bytes than were written: the old segments stay.")

    def _repoint(
        self, number: int, copied: list[tuple[int, bytes, int, int]], old: Sequence[int],
        relog: Callable[[list[Entry]], None],
    ) -> None:  # fmt: skip
        """Let memory point into the new segment; what died during the copy gets a removal that outlives the copy."""
        again: list[Entry] = []
        with self.mutex:
            rows, shadow = self.state.rows, self.state.shadow
            for key, holders in list(shadow.items()):
                holders.difference_update(old)
                if not holders:
                    del shadow[key]
            for kind, key, before, offset in copied:
                address = number << SHIFT | offset
                if kind == Kind.BLOB:
                    blob = self.state.frames.blobs.get(key)
                    if blob is not None and blob.address == before:
                        blob.address = address
                elif kind == Kind.EXPERIENCE:
                    slot = rows.slot_of.get(key)
                    if slot is None:
                        body = REMOVE.pack(key, 0, REASONS.index("removed"), 1) + struct.pack("<q", number)
                        again.append(entry(Kind.REMOVE, body))
                    elif int(rows.address[slot]) == before:
                        rows.address[slot] = address
                    else:
                        shadow.setdefault(key, set()).add(number)
        if again:
            relog(again)

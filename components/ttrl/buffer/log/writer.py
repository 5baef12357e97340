"""The writing end of the log: appends batches to the active segment, rolls to the next, survives failed writes.

Guarantee: `append` returns after fdatasync. If it raises, nothing of the batch counts: the segment is cut back to its
last acknowledged byte and never written again. Not thread-safe: one committer at a time (the caller's lock).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from crc32c import crc32c

from components.ttrl.buffer.disk import Disk, write_all
from components.ttrl.buffer.log.frame import HEADER, Entry, encode
from components.ttrl.buffer.log.segment import Segment, segment_path

log = logging.getLogger(__name__)
AHEAD_BYTES = 1 << 20
"""So many zeros are written ahead at a time."""
ZEROS = memoryview(bytes(64 << 10))
"""Written at once. The size of a write becomes that of the page cache's units, and small commits into large ones are
slower."""


class LogWriter:
    """Appends to segments of a folder.

    Args:
        disk: File layer.
        directory: The log's folder.
        segment_bytes: Size at which a segment is full (one batch may exceed it).
        preallocate: Write zeros ahead.
        next_number: Number of the next segment.
        opening: First frame of the next segment.
        on_new: Told of each segment begun.
    """

    def __init__(
        self, disk: Disk, directory: Path, segment_bytes: int, preallocate: bool, next_number: Callable[[], int],
        opening: Callable[[], Entry], on_new: Callable[[Segment], None],
    ) -> None:  # fmt: skip
        self.disk, self.directory, self.segment_bytes = disk, directory, segment_bytes
        self.next_number, self.opening, self.on_new = next_number, opening, on_new
        self.active: Segment | None = None
        self.preallocate = preallocate
        self._room = 0  # length of the active segment's file

    def append(self, entries: Sequence[Entry], sequences: Sequence[int]) -> tuple[int, list[int]]:
        """Write frames and make them durable.

        Returns:
            The segment's number, and the offset of each frame.

        Raises:
            OSError: the device refused; nothing of the batch is in the log.
        """
        parts: list[bytes] = []
        offsets: list[int] = []
        size = 0
        for item, sequence in zip(entries, sequences):
            frame = encode(item, sequence)
            parts += frame
            offsets.append(size)
            size += HEADER.size + len(frame[1]) + len(frame[2])
        segment = self.active
        if segment is None or segment.end + size > self.segment_bytes:
            segment = self._roll()
        start = segment.end
        if start == 0:
            opening = encode(self.opening(), 0)
            parts[:0] = opening
            start = sum(map(len, opening))
        data = b"".join(parts)
        try:
            write_all(self.disk, segment.descriptor, data, segment.end)
            self.disk.sync(segment.descriptor)
        except BaseException:
            self._abandon(segment)
            raise
        segment.end, segment.crc = start + size, crc32c(data, segment.crc)
        self._room = max(self._room, segment.end)
        if self.preallocate and self._room - segment.end < size <= AHEAD_BYTES // 4:
            self._lengthen(segment)
        return segment.number, [start + offset for offset in offsets]

    def seal(self) -> None:
        """Cut the active segment to its used length and write it no more."""
        segment, self.active = self.active, None
        if segment is None or self._room <= segment.end:
            return
        try:
            self.disk.truncate(segment.descriptor, segment.end)
            self.disk.sync(segment.descriptor)
        except OSError as error:
            log.warning("segment %d keeps its unused room: %s", segment.number, error)

    def close(self) -> None:
        """Seal."""
        self.seal()

    def _lengthen(self, segment: Segment) -> None:
        """Write zeros ahead, and let the device begin with them while the next batch is being made."""
        start, unit = self._room, len(ZEROS)
        stop = min((start + AHEAD_BYTES) // unit * unit, self.segment_bytes)  # whole pages: see view_beside_owner
        try:
            while self._room < stop:
                size = min(unit - self._room % unit, stop - self._room)
                write_all(self.disk, segment.descriptor, ZEROS[:size], self._room)
                self._room += size
        except OSError as error:
            log.info("zeroed only to %d of segment %d (%s): commits go on", self._room, segment.number, error)
        self.disk.begin_writing(segment.descriptor, start, self._room - start)

    def _roll(self) -> Segment:
        self.seal()
        number = self.next_number()
        path = segment_path(self.directory, number)
        if path.exists():  # left by a failed roll or compaction: nothing in it was acknowledged
            self.disk.unlink(path)
        segment = Segment(number, self.disk.create(path))
        try:
            self.disk.sync_directory(self.directory)
        except BaseException:
            self.disk.unlink(path)
            raise
        self.active, self._room = segment, 0
        self.on_new(segment)
        return segment

    def _abandon(self, segment: Segment) -> None:
        """After a failed write: cut back to the last acknowledged byte; what the device holds beyond it is unknown."""
        self.active = None
        try:
            self.disk.truncate(segment.descriptor, segment.end)
            self.disk.sync(segment.descriptor)
        except OSError as error:
            log.warning("segment %d could not be cut back after a failed write: %s", segment.number, error)

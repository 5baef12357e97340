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
from components.ttrl.buffer.log.spare import Spare

log = logging.getLogger(__name__)


class LogWriter:
    """Appends to segments of a folder.

    Args:
        disk: File layer.
        directory: The log's folder.
        segment_bytes: Size at which a segment is full (one batch may exceed it).
        preallocate: Zero the next segment in a background thread.
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
        self._room = 0  # bytes of the active segment zeroed ahead
        self._spare = Spare(disk, directory, segment_bytes) if preallocate else None

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
        if segment is None or segment.end + size > max(self._room, self.segment_bytes) or self._better_spare():
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
        """Seal, and drop the spare segment."""
        if self._spare is not None:
            self._spare.drop()
        self.seal()

    def _better_spare(self) -> bool:
        """A zeroed segment is ready while the active one must still grow (a metadata commit each time)."""
        return self._room == 0 and self._spare is not None and self._spare.ready

    def _roll(self) -> Segment:
        self.seal()
        number = self.next_number()
        path = segment_path(self.directory, number)
        if path.exists():  # left by a failed roll or compaction: nothing in it was acknowledged
            self.disk.unlink(path)
        if self._spare is not None and self._spare.ready:
            segment, room = Segment(number, self._spare.take(path)), self.segment_bytes
        else:
            segment, room = Segment(number, self.disk.create(path)), 0
        try:
            self.disk.sync_directory(self.directory)
        except BaseException:
            self.disk.unlink(path)
            raise
        self.active, self._room = segment, room
        self.on_new(segment)
        if self._spare is not None:
            self._spare.prepare()
        return segment

    def _abandon(self, segment: Segment) -> None:
        """After a failed write: cut back to the last acknowledged byte; what the device holds beyond it is unknown."""
        self.active = None
        try:
            self.disk.truncate(segment.descriptor, segment.end)
            self.disk.sync(segment.descriptor)
        except OSError as error:
            log.warning("segment %d could not be cut back after a failed write: %s", segment.number, error)

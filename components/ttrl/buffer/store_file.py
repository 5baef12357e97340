"""The `file` adapter: the segmented log of `log/` as a store. An address is segment number << 33 | offset."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from crc32c import crc32c

from components.ttrl.buffer.disk import Disk, replace_file
from components.ttrl.buffer.errors import BufferDamagedError, BufferFormatError, SegmentsMissingError
from components.ttrl.buffer.log.frame import HEADER, MAGIC, Entry, Found, Kind
from components.ttrl.buffer.log.reader import SegmentScan, frames
from components.ttrl.buffer.log.segment import (
    Segment,
    open_segments,
    opening_entry,
    read_gone,
    read_owner,
    segment_path,
)
from components.ttrl.buffer.log.writer import LogWriter
from components.ttrl.buffer.store import ScanReport

SHIFT = 33
OFFSET_MASK = (1 << SHIFT) - 1
TORN_KEPT = 8
"""Torn tails kept in `damaged/`, newest first."""


class FileStore:
    """Segments in a folder.

    Args:
        directory: The log's folder; created when writable.
        buffer_id: Written into every segment.
        disk: File layer.
        segment_bytes: Size of a segment.
        preallocate: Write zeros ahead of the records.
        read_only: Never write, truncate or delete.
    """

    snapshots = True
    """A snapshot of addresses makes opening faster."""

    def __init__(
        self, directory: Path, buffer_id: str, disk: Disk, *, segment_bytes: int, preallocate: bool, read_only: bool
    ) -> None:
        self.directory, self.buffer_id, self.disk, self.read_only = directory, buffer_id, disk, read_only
        self.segment_bytes, self.preallocate = segment_bytes, preallocate
        self.gone: set[int] = set()
        self.writer: LogWriter | None = None
        self._doomed: list[int] = []
        if not read_only and not directory.exists():
            directory.mkdir()
            disk.sync_directory(directory.parent)
        self.segments = open_segments(directory)
        for number, segment in self.segments.items():
            self.gone |= read_gone(segment)
            owner = read_owner(segment)
            if owner not in ("", buffer_id):
                raise BufferFormatError(
                    f"{segment_path(directory, number)} belongs to another buffer ({owner}, this one is {buffer_id}).",
                    remedy="Put this buffer's own buffer.json or segment back, or move the file elsewhere.",
                )
        for leftover in () if read_only else directory.glob("*.tmp"):  # of a process that was killed, or an older one
            disk.unlink(leftover)

    def append(self, entries: Sequence[Entry], sequences: Sequence[int]) -> list[int]:
        """See `Store.append`."""
        if self.writer is None:
            self.writer = LogWriter(
                self.disk, self.directory, self.segment_bytes, self.preallocate, self.next_number,
                lambda: opening_entry(self.buffer_id, self.gone), self._register,
            )  # fmt: skip
        number, offsets = self.writer.append(entries, sequences)
        base = number << SHIFT
        return [base | offset for offset in offsets]

    def read(self, address: int) -> Found:
        """See `Store.read`."""
        segment = self.segments.get(address >> SHIFT)
        if segment is None:
            raise BufferDamagedError(f"{segment_path(self.directory, address >> SHIFT)} is gone.")
        offset = address & OFFSET_MASK
        try:
            data = os.pread(segment.descriptor, 1 << 14, offset)
        except OSError as error:
            raise BufferDamagedError(f"segment {segment.number} cannot be read at offset {offset}: {error}.") from error
        if len(data) >= HEADER.size:
            magic, header_crc, kind, _, group, length, sequence, body_crc, _ = HEADER.unpack_from(data)
            if magic == MAGIC and crc32c(data[8 : HEADER.size]) == header_crc:
                if HEADER.size + length > len(data):
                    data += os.pread(segment.descriptor, HEADER.size + length - len(data), offset + len(data))
                body = memoryview(data)[HEADER.size : HEADER.size + length]
                if len(body) == length and crc32c(body) == body_crc:
                    return Found(kind, group, sequence, address, body, body_crc)
        raise BufferDamagedError(
            f"{segment_path(self.directory, segment.number)} is damaged at offset {offset}: the record there cannot be"
            " read.",
            remedy="Run `pixelis buffer verify`, then `pixelis buffer repair`; all other records stay readable.",
        )

    def scan(self, report: ScanReport, covered: Mapping[int, int] | None = None) -> Iterator[Found]:
        """See `Store.scan`. Sets every segment's end and checksum; when writable, cuts torn tails.

        Args:
            report: Receives counts and damages.
            covered: Offset per segment up to which nothing needs to be read (its end and checksum are set already).
        """
        for number in sorted(self.segments):
            segment, scan = self.segments[number], SegmentScan()
            start = (covered or {}).get(number, 0)
            newest = number == max(self.segments)
            view = segment.view_beside_owner(start, newest=newest) if self.read_only else segment.view()
            for found in frames(view, number << SHIFT, scan, start):
                if found.kind != Kind.SEGMENT:
                    report.entries += 1
                    yield found
            segment.crc = crc32c(view[start : scan.end], segment.crc if start else 0)
            segment.end = scan.end
            self._note(segment, len(view), scan, report)

    def _note(self, segment: Segment, size: int, scan: SegmentScan, report: ScanReport) -> None:
        path = segment_path(self.directory, segment.number)
        for damage in scan.damages:
            report.damages.append(f"{path.name} offset {damage.offset}: {damage.size_bytes} bytes, {damage.reason}")
            report.dropped_bytes += damage.size_bytes
        if scan.end >= size:
            return
        report.torn_bytes += scan.torn_bytes
        if self.read_only:
            return
        if scan.torn_bytes:
            self._keep_torn(path, segment, scan.end)
        descriptor = self.disk.open(path)
        try:
            self.disk.truncate(descriptor, scan.end)
            self.disk.sync(descriptor)
        finally:
            self.disk.close(descriptor)

    def _keep_torn(self, path: Path, segment: Segment, offset: int) -> None:
        folder = self.directory.parent / "damaged"
        folder.mkdir(exist_ok=True)
        tail = os.pread(segment.descriptor, 64 << 20, offset).rstrip(b"\0")
        replace_file(self.disk, folder / f"{path.stem}-{offset}.torn", tail)
        for old in sorted(folder.glob("*.torn"), reverse=True)[TORN_KEPT:]:
            self.disk.unlink(old)

    def settle(self, gone: Iterable[int] = ()) -> None:
        """Before the first scan: leave out segments whose frames lie elsewhere, refuse to go on where one is missing.

        Args:
            gone: Further numbers known to be gone (from a snapshot).

        Raises:
            SegmentsMissingError: segments are missing.
        """
        self.gone |= set(gone)
        for number in self.gone & self.segments.keys():
            del self.segments[number]
            if not self.read_only:
                self.disk.unlink(segment_path(self.directory, number))
        known = self.segments.keys() | self.gone
        missing = [n for n in range(1, max(known, default=0) + 1) if n not in known]
        if missing:
            raise missing_segments(self.directory, missing)

    def next_number(self) -> int:
        """Number of the next segment to be made."""
        return max(self.segments.keys() | self.gone, default=0) + 1

    def adopt(self, number: int, scratch: Path, end: int, crc: int) -> Segment:
        """Make a finished, synced file a segment, in one step."""
        path = segment_path(self.directory, number)
        self.disk.rename(scratch, path)
        try:
            self.disk.sync_directory(self.directory)
        except BaseException:
            self.disk.unlink(path)  # else its number would be taken by a file nobody knows
            raise
        segment = Segment(number, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        segment.end, segment.crc = end, crc
        self.segments[number] = segment
        return segment

    def detach(self, numbers: Iterable[int]) -> None:
        """Leave out segments whose live frames lie elsewhere now; readers inside them finish undisturbed."""
        for number in numbers:
            self.gone.add(number)
            if self.segments.pop(number, None) is not None:
                self._doomed.append(number)

    def delete_detached(self) -> None:
        """Delete the files of detached segments. Raises OSError; what is left is tried again next time."""
        while self._doomed:
            self.disk.unlink(segment_path(self.directory, self._doomed[-1]))
            self._doomed.pop()
        self.disk.sync_directory(self.directory)

    def seal(self) -> None:
        """End the active segment, so that it can be rewritten. The caller holds the commit lock."""
        if self.writer is not None:
            self.writer.seal()

    @property
    def active(self) -> int:
        """Number of the segment being written, or 0."""
        segment = self.writer.active if self.writer is not None else None
        return segment.number if segment is not None else 0

    def _register(self, segment: Segment) -> None:
        self.segments[segment.number] = segment

    def extents(self) -> list[tuple[int, int, int]]:
        """(number, bytes, CRC32C) of what is durable. The caller holds the commit lock."""
        return [(n, self.segments[n].end, self.segments[n].crc) for n in sorted(self.segments)]

    def bytes_on_disk(self) -> int:
        """See `Store.bytes_on_disk`."""
        return sum(os.fstat(s.descriptor).st_blocks * 512 for s in list(self.segments.values()))

    def close(self) -> None:
        """See `Store.close`."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None
        self.segments.clear()


def missing_segments(directory: Path, numbers: Sequence[int]) -> SegmentsMissingError:
    """The error for segments that should be there."""
    names = ", ".join(segment_path(directory, n).name for n in numbers[:5])
    return SegmentsMissingError(
        f"{directory} lacks {len(numbers)} of its segments ({names}): their records are gone.",
        remedy="Put the files back, or accept the loss with `pixelis buffer repair`.",
    )

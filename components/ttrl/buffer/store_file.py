"""The `file` adapter: the segmented log of `log/` as a store. An address is segment number << 33 | offset."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgpack
from crc32c import crc32c

from components.ttrl.buffer.disk import Disk
from components.ttrl.buffer.errors import BufferDamagedError, BufferFormatError
from components.ttrl.buffer.log.frame import HEADER, MAGIC, Entry, Found, Kind, entry, frame_size
from components.ttrl.buffer.log.reader import SegmentScan, frames
from components.ttrl.buffer.log.writer import SPARE, LogWriter, segment_path
from components.ttrl.buffer.store import ScanReport

SHIFT = 33
OFFSET_MASK = (1 << SHIFT) - 1


class FileStore:
    """Segments in a folder.

    Args:
        directory: The log's folder; created when writable.
        buffer_id: Written into every segment.
        disk: File layer.
        segment_bytes: Size of a segment.
        preallocate: Zero segments ahead.
        read_only: Never write, truncate or delete.
    """

    def __init__(
        self, directory: Path, buffer_id: str, disk: Disk, *, segment_bytes: int, preallocate: bool, read_only: bool
    ) -> None:
        self.directory, self.buffer_id, self.disk, self.read_only = directory, buffer_id, disk, read_only
        self.segment_bytes, self.preallocate = segment_bytes, preallocate
        self.descriptors: dict[int, int] = {}
        self.gone: set[int] = set()
        self.writer: LogWriter | None = None
        if not read_only:
            directory.mkdir(exist_ok=True)
            disk.sync_directory(directory.parent)
        for path in sorted(directory.glob("*.log")):
            self.descriptors[int(path.stem)] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def append(self, entries: Sequence[Entry], sequences: Sequence[int]) -> list[int]:
        """See `Store.append`."""
        if self.writer is None:
            self.writer = LogWriter(
                self.disk, self.directory, self.segment_bytes, self.preallocate,
                max([*self.descriptors, *self.gone], default=0) + 1, self._opening,
            )  # fmt: skip
            self.writer.on_new = self._register
        return [number << SHIFT | offset for number, offset in self.writer.append(entries, sequences)]

    def read(self, address: int) -> Found:
        """See `Store.read`."""
        number, offset = address >> SHIFT, address & OFFSET_MASK
        descriptor = self.descriptors[number]
        data = os.pread(descriptor, 1 << 14, offset)
        if len(data) >= HEADER.size:
            magic, header_crc, kind, _, group, length, sequence, body_crc, _ = HEADER.unpack_from(data)
            if magic == MAGIC and crc32c(data[8 : HEADER.size]) == header_crc:
                if HEADER.size + length > len(data):
                    data += os.pread(descriptor, HEADER.size + length - len(data), offset + len(data))
                body = memoryview(data)[HEADER.size : HEADER.size + length]
                if len(body) == length and crc32c(body) == body_crc:
                    return Found(kind, group, sequence, address, body, body_crc)
        raise BufferDamagedError(
            f"{segment_path(self.directory, number)} is damaged at offset {offset}: the record there cannot be read.",
            remedy="Run `pixelis buffer verify`, then `pixelis buffer repair`; all other records stay readable.",
        )

    def scan(self, report: ScanReport) -> Iterator[Found]:
        """See `Store.scan`. When writable, cuts the torn tail of the last segment."""
        numbers = sorted(self.descriptors)
        self._refuse_missing(numbers)
        for number in numbers:
            if number in self.gone:
                continue
            descriptor = self.descriptors[number]
            size = os.fstat(descriptor).st_size
            if size == 0:
                continue
            # unmapped when the last body that points into it is forgotten
            view = memoryview(mmap.mmap(descriptor, size, prot=mmap.PROT_READ))
            scan = SegmentScan()
            for found in frames(view, number << SHIFT, scan):
                if found.kind != Kind.SEGMENT:
                    report.entries += 1
                    yield found
            self._note(number, size, scan, report)

    def _note(self, number: int, size: int, scan: SegmentScan, report: ScanReport) -> None:
        path = segment_path(self.directory, number)
        for damage in scan.damages:
            report.damages.append(f"{path.name} offset {damage.offset}: {damage.size_bytes} bytes, {damage.reason}")
            report.dropped_bytes += damage.size_bytes
        if scan.end < size:
            report.torn_bytes += 0 if scan.zero_tail else size - scan.end

    def _refuse_missing(self, numbers: list[int]) -> None:
        for number in numbers:
            self.gone |= self._gone_of(number)
        known = set(numbers) | self.gone
        missing = [n for n in range(1, max(known, default=0) + 1) if n not in known]
        if missing:
            names = ", ".join(segment_path(self.directory, n).name for n in missing[:5])
            raise BufferFormatError(
                f"{self.directory} lacks {len(missing)} of its segments ({names}): their records are gone.",
                remedy="Put the files back, or accept the loss with `pixelis buffer repair`.",
            )

    def _gone_of(self, number: int) -> set[int]:
        data = os.pread(self.descriptors[number], 1 << 16, 0)
        if len(data) < HEADER.size:
            return set()
        magic, header_crc, kind, _, _, length, _, body_crc, _ = HEADER.unpack_from(data)
        if magic != MAGIC or kind != Kind.SEGMENT or crc32c(data[8 : HEADER.size]) != header_crc:
            return set()
        body = os.pread(self.descriptors[number], length, HEADER.size)
        if crc32c(body) != body_crc:
            return set()
        return {n for first, last in msgpack.unpackb(body)["gone"] for n in range(first, last + 1)}

    def _opening(self, number: int) -> Entry:
        gone = ranges(self.gone)
        return entry(Kind.SEGMENT, msgpack.packb({"number": number, "buffer": self.buffer_id, "gone": gone}))

    def _register(self, number: int, descriptor: int) -> None:
        self.descriptors[number] = descriptor

    def bytes_on_disk(self) -> int:
        """See `Store.bytes_on_disk`."""
        total = sum(os.fstat(descriptor).st_blocks * 512 for descriptor in self.descriptors.values())
        spare = self.directory / SPARE
        return total + (spare.stat().st_blocks * 512 if spare.exists() else 0)

    def close(self) -> None:
        """See `Store.close`."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        self.descriptors.clear()


def ranges(numbers: set[int]) -> list[tuple[int, int]]:
    """Sorted, closed ranges covering exactly `numbers`."""
    result: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if result and result[-1][1] == number - 1:
            result[-1] = (result[-1][0], number)
        else:
            result.append((number, number))
    return result


__all__ = ["OFFSET_MASK", "SHIFT", "FileStore", "frame_size", "ranges"]

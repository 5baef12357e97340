"""A segment's file: its descriptor, how far it is written, and the checksum of that."""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path

import msgpack
from crc32c import crc32c

from components.ttrl.buffer.log.frame import HEADER, MAGIC, Entry, Kind, entry


def segment_path(directory: Path, number: int) -> Path:
    """The file of a segment."""
    return directory / f"{number:010d}.log"


class Segment:
    """Closed when the last reader lets go of it, so that deleting a segment never disturbs a read.

    Args:
        number: Its number.
        descriptor: Open for reading (and writing, while it is the active one).
    """

    __slots__ = ("crc", "descriptor", "end", "kept", "number")

    def __init__(self, number: int, descriptor: int) -> None:
        self.number, self.descriptor = number, descriptor
        self.end = 0
        """Bytes written and durable."""
        self.crc = 0
        """CRC32C of bytes 0 .. end."""
        self.kept = 0
        """Bytes no record in force has, and that a compaction found it must keep: rewriting would not free them."""

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.descriptor)

    def size(self) -> int:
        """Bytes of the file, room not used yet included."""
        return os.fstat(self.descriptor).st_size

    def view(self) -> memoryview:
        """The file's bytes, mapped; unmapped when the last slice is forgotten."""
        size = self.size()
        return memoryview(mmap.mmap(self.descriptor, size, prot=mmap.PROT_READ) if size else b"")


def opening_entry(buffer_id: str, gone: set[int]) -> Entry:
    """A segment's first frame."""
    return entry(Kind.SEGMENT, msgpack.packb({"buffer": buffer_id, "gone": ranges(gone)}))


def read_gone(segment: Segment) -> set[int]:
    """Segment numbers that the first frame of a segment says no longer exist; empty where it is damaged."""
    descriptor = segment.descriptor
    data = os.pread(descriptor, HEADER.size, 0)
    if len(data) < HEADER.size:
        return set()
    magic, header_crc, kind, _, _, length, _, body_crc, _ = HEADER.unpack(data)
    if magic != MAGIC or kind != Kind.SEGMENT or crc32c(data[8:]) != header_crc:
        return set()
    body = os.pread(descriptor, length, HEADER.size)
    if crc32c(body) != body_crc:
        return set()
    return {n for first, last in msgpack.unpackb(body)["gone"] for n in range(first, last + 1)}


def ranges(numbers: set[int]) -> list[tuple[int, int]]:
    """Sorted, closed ranges covering exactly `numbers`."""
    result: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if result and result[-1][1] == number - 1:
            result[-1] = (result[-1][0], number)
        else:
            result.append((number, number))
    return result

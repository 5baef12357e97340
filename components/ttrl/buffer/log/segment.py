"""A segment's file: its descriptor, how far it is written, and the checksum of that."""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path
from typing import Any

import msgpack
from crc32c import crc32c

from components.ttrl.buffer.errors import BufferNotReadyError
from components.ttrl.buffer.log.frame import HEADER, MAGIC, Entry, Kind, entry

PAGE, COPIED = 4096, 1 << 20
TRIES = 100


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
        return self._mapped(self.size())

    def _mapped(self, size: int) -> memoryview:
        return memoryview(mmap.mmap(self.descriptor, size, prot=mmap.PROT_READ) if size else b"")

    def view_beside_owner(self, start: int = 0, *, newest: bool) -> memoryview:
        """`view` for who does not own the log; zeros before `start` may stand for the bytes there.

        What the owner may cut off at any moment (room not used yet, a commit that fails) is copied: touching a mapping
        behind the end of a file kills the process.

        Args:
            start: From here on the bytes count.
            newest: No segment has a higher number.
        """
        size = self.size()
        if not newest and os.pread(self.descriptor, PAGE, max(0, size - PAGE)).strip(b"\0"):
            with contextlib.suppress(ValueError):  # cut within its last page just now
                return self._mapped(size)  # and not what was added since
        copy = memoryview(mmap.mmap(-1, size) if size else b"")
        for offset in range(start, size, COPIED):
            piece = os.pread(self.descriptor, min(COPIED, size - offset), offset)
            if piece.strip(b"\0"):  # untouched memory is zero and takes no room
                copy[offset : offset + len(piece)] = piece
        return copy.toreadonly()


def segment_files(directory: Path) -> list[Path]:
    """Files of a folder that are named as segments are, in order; others are not ours."""
    return sorted(path for path in directory.glob("*.log") if path.stem.isdecimal() and path.is_file())


def open_segments(directory: Path) -> dict[int, Segment]:
    """All segments of a log, open for reading, as they lie there at one moment; its owner may be compacting it."""
    for _ in range(TRIES):
        try:
            found = {
                int(path.stem): Segment(int(path.stem), os.open(path, os.O_RDONLY | os.O_CLOEXEC))
                for path in segment_files(directory)
            }
        except FileNotFoundError:
            continue  # its live frames lie in a segment that may not have been listed yet
        if all(segment_path(directory, number).exists() for number in found):
            return found
    raise BufferNotReadyError(f"{directory} changes faster than it can be listed.", remedy="Try again.")


def opening_entry(buffer_id: str, gone: set[int]) -> Entry:
    """A segment's first frame."""
    return entry(Kind.SEGMENT, msgpack.packb({"buffer": buffer_id, "gone": ranges(gone)}))


def read_gone(segment: Segment) -> set[int]:
    """Segment numbers that the first frame of a segment says no longer exist; empty where it is damaged."""
    return {n for first, last in _opening(segment).get("gone", ()) for n in range(first, last + 1)}


def read_owner(segment: Segment) -> str:
    """Id of the buffer whose segment it is; "" where the first frame is damaged."""
    return str(_opening(segment).get("buffer", ""))


def _opening(segment: Segment) -> dict[str, Any]:
    descriptor = segment.descriptor
    data = os.pread(descriptor, HEADER.size, 0)
    if len(data) < HEADER.size:
        return {}
    magic, header_crc, kind, _, _, length, _, body_crc, _ = HEADER.unpack(data)
    if magic != MAGIC or kind != Kind.SEGMENT or crc32c(data[8:]) != header_crc:
        return {}
    body = os.pread(descriptor, length, HEADER.size)
    if crc32c(body) != body_crc:
        return {}
    content: dict[str, Any] = msgpack.unpackb(body)
    return content


def ranges(numbers: set[int]) -> list[tuple[int, int]]:
    """Sorted, closed ranges covering exactly `numbers`."""
    result: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if result and result[-1][1] == number - 1:
            result[-1] = (result[-1][0], number)
        else:
            result.append((number, number))
    return result

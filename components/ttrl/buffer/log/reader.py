"""Reading a segment: every good frame, and a report of every byte that is not in one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from crc32c import crc32c

from components.ttrl.buffer.log.frame import HEADER, MAGIC, MAGIC_BYTES, VERSION, Found, frame_size


@dataclass(frozen=True)
class Damage:
    """Bytes of a segment that belong to no good frame."""

    offset: int
    size_bytes: int
    reason: str
    sequence: int = 0
    """Sequence number of the damaged frame, where its header is good."""


@dataclass
class SegmentScan:
    """What one pass over a segment found."""

    end: int = 0
    """Offset behind the last good frame."""
    damages: list[Damage] = field(default_factory=list)
    torn_bytes: int = 0
    """Bytes behind `end` up to the last one that is not zero."""

    def note(self, offset: int, size_bytes: int, reason: str, sequence: int = 0) -> None:
        """Record a damage."""
        self.damages.append(Damage(offset, size_bytes, reason, sequence))


def frames(view: memoryview, base: int, scan: SegmentScan, start: int = 0) -> Iterator[Found]:
    """Every good frame from `start` on; fills `scan` as it goes.

    Args:
        view: The segment's bytes.
        base: Added to a frame's offset to make its address.
        scan: Receives the end, the damages and the kind of tail.
        start: Offset of a frame.
    """
    offset, size, unpack, header_size = start, len(view), HEADER.unpack_from, HEADER.size
    scan.end = start
    while offset + header_size <= size:
        magic, header_crc, kind, version, group, length, sequence, body_crc, _ = unpack(view, offset)
        body_start = offset + header_size
        if magic != MAGIC or crc32c(view[offset + 8 : body_start]) != header_crc:
            following = _next_header(view, offset + 8)
            if following < 0:
                break
            scan.note(offset, following - offset, "no frame header")
            offset = scan.end = following
            continue
        stop = offset + frame_size(length)
        body = view[body_start : body_start + length]
        if version != VERSION:
            scan.note(offset, stop - offset, f"frame version {version} is not known", sequence)
        elif len(body) != length or crc32c(body) != body_crc:
            if stop > size or _next_header(view, stop) < 0:
                break
            scan.note(offset, stop - offset, "checksum of the body", sequence)
        else:
            yield Found(kind, group, sequence, base + offset, body, body_crc)
        offset = scan.end = min(stop, size)
    scan.torn_bytes = _tail_bytes(view, offset)


def _next_header(view: memoryview, offset: int) -> int:
    """Offset of the next good frame header at or after `offset`, or -1."""
    chunk = 1 << 20
    while offset < len(view):
        piece = bytes(view[offset : offset + chunk + HEADER.size])
        at = piece.find(MAGIC_BYTES)
        while at >= 0:
            if at + HEADER.size <= len(piece) and (offset + at) % 8 == 0:
                header_crc = int.from_bytes(piece[at + 4 : at + 8], "little")
                if crc32c(piece[at + 8 : at + HEADER.size]) == header_crc:
                    return offset + at
            at = piece.find(MAGIC_BYTES, at + 1)
        offset += chunk
    return -1


def _tail_bytes(view: memoryview, end: int) -> int:
    """Bytes from `end` to the last one that is not zero."""
    chunk, stop = 1 << 20, len(view)
    while stop > end:
        start = max(end, stop - chunk)
        rest = bytes(view[start:stop]).rstrip(b"\0")
        if rest:
            return start + len(rest) - end
        stop = start
    return 0

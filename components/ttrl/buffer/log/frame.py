"""One frame: its header, its encoding, and the kinds of frames (format: the package's docstring)."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from crc32c import crc32c

MAGIC = 0x46584C50
MAGIC_BYTES = MAGIC.to_bytes(4, "little")
VERSION = 1
HEADER = struct.Struct("<IIBBHIQII")
_CHECKED = struct.Struct("<BBHIQII")
_LEAD = struct.Struct("<II")
_PADDING = tuple(bytes(-length % 8) for length in range(8))


class Kind(IntEnum):
    """What a frame says."""

    SEGMENT = 0
    EXPERIENCE = 1
    PATCH = 2
    REMOVE = 3
    BLOB = 4


class Entry(NamedTuple):
    """A frame before it has a place: everything but its sequence number."""

    kind: int
    body: bytes
    body_crc: int
    group: int = 0


class Found(NamedTuple):
    """A frame in a store."""

    kind: int
    group: int
    sequence: int
    address: int
    body: bytes | memoryview
    body_crc: int


def entry(kind: Kind, body: bytes, group: int = 0) -> Entry:
    """An entry with its checksum."""
    return Entry(int(kind), body, crc32c(body), group)


def encode(item: Entry, sequence: int) -> tuple[bytes, bytes, bytes]:
    """Header, body and padding of a frame: joined they are the frame."""
    kind, body, body_crc, group = item
    length = len(body)
    checked = _CHECKED.pack(kind, VERSION, group, length, sequence, body_crc, 0)
    return _LEAD.pack(MAGIC, crc32c(checked)) + checked, body, _PADDING[length % 8]


def frame_size(length: int) -> int:
    """Bytes a frame with a body of `length` bytes takes in a segment."""
    return HEADER.size + length + -length % 8

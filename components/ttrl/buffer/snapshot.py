"""Snapshots: where every live record lies, so that opening need not replay the log. They copy no record.

A snapshot is a file `snapshots/NNNNNNNNNNNNNNNNNNNN.snapshot`, named by the last log sequence number it covers:

    offset  type    field
    0       u8[8]   "PLXSNAP1"
    8       u32     bytes of the JSON head
    12      u32     CRC32C of the JSON head
    16      JSON    sequence; segments [[number, bytes, CRC32C of those]]; gone; names; sections [[name, shape, CRC32C]]
            u8[]    the sections, each padded to 8 bytes

Sections: `address` i64 and `tags` i32[3] (source, subject, label) of each record; `patch` (structured) of the records
with changed numbers; `blob_digest`, `blob_address`, `blob_size` of frames; `shadow` i64[2] (record, segment that still
holds an older version of it). Everything else is read from the records themselves, whose segments the head's checksums
cover.

Written by rename, verified by reading back, several generations kept. The log alone is the truth: with every snapshot
damaged, opening replays all of it.
"""

from __future__ import annotations

import json
import logging
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c

from components.shared.runtime.config import canonical_json
from components.ttrl.buffer.disk import Disk, replace_file
from components.ttrl.buffer.errors import BufferDamagedError

log = logging.getLogger(__name__)
MAGIC = b"PLXSNAP1"
LEAD = struct.Struct("<8sII")
PATCH_ROW = np.dtype(
    [("row", "<u4"), ("patched", "<i8"), ("updated", "<f8"), ("override", "<f8"), ("confidence", "<f4"),
     ("reward", "<f4"), ("retrieved", "<u4"), ("succeeded", "<u4")]
)  # fmt: skip
TYPES: dict[str, np.dtype[Any]] = {
    "address": np.dtype("<i8"), "tags": np.dtype("<i4"), "patch": PATCH_ROW, "blob_digest": np.dtype("u1"),
    "blob_address": np.dtype("<i8"), "blob_size": np.dtype("<i8"), "shadow": np.dtype("<i8"),
}  # fmt: skip


@dataclass
class Snapshot:
    """The content of a snapshot file."""

    sequence: int
    segments: list[tuple[int, int, int]]
    """(number, bytes covered, CRC32C of those bytes) of each segment."""
    names: dict[str, list[str | None]]
    gone: list[tuple[int, int]] = field(default_factory=list)
    """Ranges of segment numbers that no longer exist."""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The file's bytes."""
        parts, sections = [], []
        for name, dtype in TYPES.items():
            array = np.ascontiguousarray(self.arrays[name], dtype)
            data = array.tobytes()
            sections.append([name, list(array.shape), crc32c(data)])
            parts += [data, bytes(-len(data) % 8)]
        content = {"sequence": self.sequence, "segments": self.segments, "names": self.names,
                   "gone": self.gone, "sections": sections}  # fmt: skip
        head = canonical_json(content).encode()
        head += b" " * (-len(head) % 8)
        return b"".join([LEAD.pack(MAGIC, len(head), crc32c(head)), head, *parts])

    @classmethod
    def decode(cls, data: bytes, name: str) -> Snapshot:
        """Read and verify.

        Raises:
            BufferDamagedError: any byte is not what it was; names the file and the part.
        """
        head, start = _head(data, name)
        arrays = {}
        for section, shape, checksum in head["sections"]:
            dtype = TYPES[section]
            size = int(np.prod(shape)) * dtype.itemsize
            part = memoryview(data)[start : start + size]
            if len(part) != size or crc32c(part) != checksum:
                raise BufferDamagedError(f"snapshot {name}: section {section} does not match its checksum.")
            arrays[section] = np.frombuffer(part, dtype).reshape(shape)
            start += size + -size % 8
        segments = [(n, size, crc) for n, size, crc in head["segments"]]
        return cls(head["sequence"], segments, head["names"], [(a, b) for a, b in head["gone"]], arrays)


def _head(data: bytes, name: str) -> tuple[dict[str, Any], int]:
    if len(data) >= LEAD.size:
        magic, length, checksum = LEAD.unpack_from(data)
        text = data[LEAD.size : LEAD.size + length]
        if magic == MAGIC and len(text) == length and crc32c(text) == checksum:
            return json.loads(text), LEAD.size + length
    raise BufferDamagedError(f"snapshot {name}: its head does not match its checksum.")


class Snapshots:
    """The folder of snapshot files.

    Args:
        directory: The folder; created on the first write.
        disk: File layer.
        generations: How many to keep.
    """

    def __init__(self, directory: Path, disk: Disk, generations: int) -> None:
        self.directory, self.disk, self.generations = directory, disk, generations

    def paths(self) -> list[Path]:
        """Snapshot files, newest first."""
        return sorted(self.directory.glob("*.snapshot"), reverse=True)

    def write(self, snapshot: Snapshot) -> Path:
        """Make a snapshot durable and verify what the device gives back; then drop the oldest beyond `generations`.

        Raises:
            OSError: not written; the older ones stand.
            BufferDamagedError: the device gave back other bytes; the file is deleted again.
        """
        if not self.directory.exists():
            self.directory.mkdir()
            self.disk.sync_directory(self.directory.parent)
        path = self.directory / f"{snapshot.sequence:020d}.snapshot"
        replace_file(self.disk, path, snapshot.encode())
        try:
            Snapshot.decode(path.read_bytes(), path.name)
        except BufferDamagedError:
            self.disk.unlink(path)
            raise
        self.keep(self.generations, newest=path)
        return path

    def keep(self, count: int, newest: Path | None = None) -> None:
        """Delete all but the newest `count`, and what a crash left half-written.

        Args:
            count: So many stay.
            newest: Just written: those of higher numbers cover a log that was longer before it was damaged.
        """
        paths = self.paths()
        lost = [path for path in paths if newest is not None and path.name > newest.name]
        doomed = [*lost, *paths[len(lost) :][count:], *self.directory.glob("*.tmp")]
        for path in doomed:
            self.disk.unlink(path)
        if doomed:
            self.disk.sync_directory(self.directory)

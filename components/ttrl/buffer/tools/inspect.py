"""Looking at a buffer: its numbers, its records, and whether every byte is what it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c

from components.ttrl.buffer.errors import BufferDamagedError, BufferFormatError
from components.ttrl.buffer.index import file
from components.ttrl.buffer.index.builder import CURRENT
from components.ttrl.buffer.log.frame import Kind
from components.ttrl.buffer.log.reader import SegmentScan, frames
from components.ttrl.buffer.log.segment import Segment, read_gone
from components.ttrl.buffer.record import Experience
from components.ttrl.buffer.snapshot import Snapshot
from components.ttrl.buffer.store import ScanReport
from components.ttrl.buffer.tools.opening import config_of, view


def stat(directory: Path) -> dict[str, Any]:
    """Counts, bytes and ages of a buffer, and its sources with their shares."""
    with view(directory) as buffer:
        numbers = buffer.stats()
        rows = buffer._state.rows
        codes, counts = np.unique(rows.source[rows.live()], return_counts=True)
        sources = {rows.names["source"].texts[code] or "": int(count) for code, count in zip(codes, counts)}
    owner = directory / "LOCK"
    return {**numbers, "sources": dict(sorted(sources.items(), key=lambda item: -item[1])),
            "last_owner": owner.read_text() if owner.exists() else ""}  # fmt: skip


def dump(
    directory: Path, *, ids: list[str] | None = None, limit: int | None = None, vectors: bool = False
) -> Iterator[dict[str, Any]]:
    """Records as plain maps, oldest first.

    Args:
        directory: The buffer.
        ids: Only these.
        limit: At most so many.
        vectors: Give the embeddings as lists, not only their lengths.
    """
    with view(directory) as buffer:
        for identity in (ids if ids is not None else buffer.ids())[:limit]:
            yield as_map(buffer.get(identity), vectors=vectors)


def as_map(experience: Experience, *, vectors: bool) -> dict[str, Any]:
    """One record as a map of JSON values (bytes as their number)."""
    result: dict[str, Any] = {}
    for name in Experience.__slots__:
        value = getattr(experience, name)
        if name in ("visual", "text"):
            if value is not None:
                result[name] = (
                    value.tolist() if vectors else {"norm": float(np.linalg.norm(value)), "dimension": len(value)}
                )
        else:
            result[name] = _plain(value)
    return result


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": len(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


@dataclass
class VerifyReport:
    """What a verification read and what was wrong."""

    frames: int = 0
    bytes: int = 0
    snapshots: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Not damage: room not used yet, the torn end of a commit nobody was told of."""

    @property
    def good(self) -> bool:
        """Whether every byte is what it was."""
        return not self.problems


def verify(directory: Path) -> VerifyReport:
    """Read every byte of a buffer and compare all checksums; never writes."""
    report = VerifyReport()
    try:
        config = config_of(directory)
    except BufferFormatError as error:
        report.problems.append(str(error))
        adapter = "lmdb" if (directory / "data").exists() else "file"
    else:
        adapter = config.adapter
        if adapter == "lmdb":
            _verify_lmdb(directory, report)
            return report
    if adapter == "file":
        _verify_log(directory / "log", report)
        _verify_snapshots(directory, report)
    _verify_index(directory, report)
    return report


def _verify_log(folder: Path, report: VerifyReport) -> None:
    paths = {int(path.stem): path for path in sorted(folder.glob("*.log"))}
    gone: set[int] = set()
    experiences: set[bytes] = set()
    for number, path in paths.items():
        segment, scan = Segment(number, os.open(path, os.O_RDONLY | os.O_CLOEXEC)), SegmentScan()
        gone |= read_gone(segment)
        view_ = segment.view()
        for found in frames(view_, 0, scan):
            report.frames += 1
            if found.kind == Kind.EXPERIENCE:
                experiences.add(bytes(found.body[:16]))
        report.bytes += len(view_)
        for damage in scan.damages:
            report.problems.append(f"{path.name} offset {damage.offset}: {damage.size_bytes} bytes, {damage.reason}")
        if scan.end < len(view_):
            rest = len(view_) - scan.end
            if scan.zero_tail:
                report.notes.append(f"{path.name}: {rest} bytes of room not used yet")
            elif number == max(paths):
                report.notes.append(f"{path.name} offset {scan.end}: {rest} bytes of a commit that was cut short")
            else:
                report.problems.append(f"{path.name} offset {scan.end}: {rest} bytes that are no frame")
    missing = [n for n in range(1, max(paths, default=0) + 1) if n not in paths and n not in gone]
    report.problems += [f"segment {number:010d}.log is missing" for number in missing]


def _verify_snapshots(directory: Path, report: VerifyReport) -> None:
    for path in sorted((directory / "snapshots").glob("*.snapshot"), reverse=True):
        try:
            snapshot = Snapshot.decode(path.read_bytes(), path.name)
        except FileNotFoundError:
            continue
        except BufferDamagedError as error:
            report.problems.append(str(error))
            continue
        report.snapshots += 1
        for number, end, checksum in snapshot.segments:
            segment = directory / "log" / f"{number:010d}.log"
            if not segment.exists():
                report.notes.append(f"{path.name} refers to segment {number}, which was rewritten since")
            elif crc32c(segment.read_bytes()[:end]) != checksum:
                report.problems.append(f"{segment.name}: its first {end} bytes are not those {path.name} covers")


def _verify_index(directory: Path, report: VerifyReport) -> None:
    path = directory / "index" / CURRENT
    if path.exists():
        try:
            file.read(path)
        except BufferDamagedError as error:
            report.problems.append(str(error))


def _verify_lmdb(directory: Path, report: VerifyReport) -> None:
    with view(directory) as buffer:
        scan = ScanReport()
        for found in buffer._store.scan(scan):
            report.frames += 1
            report.bytes += len(found.body)
        report.problems += scan.damages
    _verify_index(directory, report)

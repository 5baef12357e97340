"""Looking at a buffer: its numbers, its records, and whether every byte is what it was."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c

from components.ttrl.buffer import layout
from components.ttrl.buffer.errors import BufferDamagedError, BufferFormatError
from components.ttrl.buffer.index import file
from components.ttrl.buffer.index.builder import CURRENT
from components.ttrl.buffer.log.reader import SegmentScan, frames
from components.ttrl.buffer.log.segment import open_segments, read_gone, segment_path
from components.ttrl.buffer.record import Experience
from components.ttrl.buffer.snapshot import Snapshot
from components.ttrl.buffer.store import ScanReport
from components.ttrl.buffer.tools.opening import config_of, refuse_lost, view

TAIL_TRIES, TAIL_PAUSE_S = 4, 0.02
"""How often, and how long after, the end of a segment is read again before it is called torn."""


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

    Raises:
        BufferDamagedError: some records cannot be read (told last).
    """
    lost: list[str] = []
    with view(directory) as buffer:
        for identity in (ids if ids is not None else buffer.ids())[:limit]:
            try:
                yield as_map(buffer.get(identity), vectors=vectors)
            except BufferDamagedError as error:
                lost.append(f"{identity}: {error}")
    refuse_lost(lost, "the others were shown")


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

    def refuse_damage(self, directory: Path) -> None:
        """Raise BufferDamagedError unless every byte is what it was."""
        if not self.good:
            raise BufferDamagedError(
                f"{directory}: {len(self.problems)} problems. {self.problems[0]}",
                remedy="Run `pixelis buffer repair` with its owner stopped; what can be read is kept.",
            )


def verify(directory: Path) -> VerifyReport:
    """Read every byte of a buffer and compare all checksums; never writes.

    Raises:
        BufferFormatError: not a buffer, or one of a newer format.
    """
    report = VerifyReport()
    layout.refuse_newer(directory)
    try:
        config = config_of(directory)
    except BufferFormatError as error:
        if not (directory / layout.NAME).exists() and not layout.holds_data(directory):
            raise
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
        _verify_complete(directory, report)
    _verify_index(directory, report)
    return report


def _verify_log(folder: Path, report: VerifyReport) -> None:
    segments = open_segments(folder)
    newest = 0
    torn: list[tuple[int, int, str]] = []  # segment, its highest sequence number, and what to say
    for number, segment in segments.items():
        scan, last = SegmentScan(), 0
        for _ in range(TAIL_TRIES):
            view_ = segment.view_beside_owner(scan.end, newest=number == max(segments))
            for found in frames(view_, 0, scan, scan.end):
                report.frames += 1
                last = max(last, found.sequence)
            if not scan.torn_bytes:
                break
            time.sleep(TAIL_PAUSE_S)  # a commit may be under way
        report.bytes += len(view_)
        name = segment_path(folder, number).name
        for damage in scan.damages:
            report.problems.append(f"{name} offset {damage.offset}: {damage.size_bytes} bytes, {damage.reason}")
        if scan.torn_bytes:
            torn.append((number, last, f"{name} offset {scan.end}: {scan.torn_bytes} bytes"))
        elif scan.end < len(view_):
            report.notes.append(f"{name}: {len(view_) - scan.end} bytes of room not used yet")
        newest = max(newest, last)
    for number, last, place in torn:  # the one written last has the highest, whatever compaction made after it
        if last == newest or number == max(segments):
            report.notes.append(f"{place} of a commit that was cut short")
        else:
            report.problems.append(f"{place} that are no frame")


def _verify_complete(directory: Path, report: VerifyReport) -> None:
    """Every segment is there, or some file says that it is gone: up to the last one any file names."""
    named, gone = set[int](), set[int]()
    for path in (directory / "snapshots").glob("*.snapshot"):
        with contextlib.suppress(BufferDamagedError, FileNotFoundError):
            snapshot = Snapshot.decode(path.read_bytes(), path.name)
            named |= {number for number, _, _ in snapshot.segments}
            gone |= {n for first, last in snapshot.gone for n in range(first, last + 1)}
    segments = open_segments(directory / "log")  # last: what the snapshots named is here, or compacted since
    gone = gone.union(*map(read_gone, segments.values()))
    lost = sorted(set(range(1, max(named | segments.keys(), default=0) + 1)) - segments.keys() - gone)
    report.problems += [f"segment {segment_path(Path(), n).name} is missing" for n in lost]


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
            segment = segment_path(directory / "log", number)
            try:
                data = segment.read_bytes()
            except FileNotFoundError:
                report.notes.append(f"{path.name} refers to segment {number}, which is not there any more")
            else:
                if crc32c(memoryview(data)[:end]) != checksum:
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

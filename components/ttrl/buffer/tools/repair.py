"""Repair: what can be read is kept, what cannot is put aside and named; and compaction on demand.

Every file that is replaced is kept as `damaged/NAME.broken` (until an erasure empties that folder).
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgpack

from components.ttrl.buffer import layout, store_lmdb
from components.ttrl.buffer.buffer import ExperienceBuffer
from components.ttrl.buffer.config import BufferConfig
from components.ttrl.buffer.disk import Disk, replace_file
from components.ttrl.buffer.errors import BufferDamagedError, BufferFormatError
from components.ttrl.buffer.index import file
from components.ttrl.buffer.index.builder import CURRENT
from components.ttrl.buffer.lock import OwnerLock
from components.ttrl.buffer.log.frame import Entry, Kind, encode
from components.ttrl.buffer.log.reader import SegmentScan, frames
from components.ttrl.buffer.log.segment import Segment, opening_entry, read_gone, segment_files, segment_path
from components.ttrl.buffer.record import FIXED
from components.ttrl.buffer.snapshot import Snapshot
from components.ttrl.buffer.store import ScanReport
from components.ttrl.buffer.store_lmdb import LmdbStore
from components.ttrl.buffer.tools.opening import config_of


@dataclass
class RepairReport:
    """What was wrong and what was done."""

    actions: list[str] = field(default_factory=list)
    lost_bytes: int = 0
    records: int = 0
    """Records there are afterwards."""


def repair(directory: Path) -> RepairReport:
    """Make a damaged buffer whole again, without what cannot be read.

    Raises:
        BufferLockedError: its owner is running.
        BufferFormatError: there is nothing to repair from (an LMDB buffer's environment is gone, for one).
    """
    report, disk = RepairReport(), Disk()
    if not layout.holds_data(directory):
        config_of(directory)
    layout.refuse_newer(directory)
    lock = OwnerLock(directory)
    try:
        if _adapter(directory) == "lmdb":
            _identity(directory, disk, report)
            layout.refuse_lost_environment(directory, layout.read(directory / layout.NAME))
            _entries(directory, report)
        else:
            (directory / "log").mkdir(exist_ok=True)
            _identity(directory, disk, report)
            identity = layout.read(directory / layout.NAME)["id"]
            _segments(directory, identity, disk, report)
            _missing(directory, identity, disk, report)
            _derived(directory, directory / "snapshots", "*.snapshot", _good_snapshot, disk, report)
        _derived(directory, directory / "index", CURRENT, _good_index, disk, report)
    finally:
        lock.release()
    with ExperienceBuffer.open(directory, config_of(directory)) as buffer:
        for damage in buffer.recovery.damages:
            report.actions.append(f"left out: {damage}")
        buffer.compact(everything=True)
        report.records = len(buffer)
    return report


def compact(directory: Path, *, everything: bool = False) -> int:
    """Rewrite segments with dead bytes (`everything`: all); returns the bytes freed.

    Raises:
        BufferLockedError: its owner is running (and compacts by itself).
    """
    with ExperienceBuffer.open(directory, config_of(directory)) as buffer:
        before = buffer.stats()["disk_bytes"]
        if everything:
            buffer.compact(everything=True)
        else:
            while buffer.compact():
                pass
        return int(before - buffer.stats()["disk_bytes"])


def _adapter(directory: Path) -> str:
    """As buffer.json says, or what lies there."""
    try:
        return str(layout.read(directory / layout.NAME)["adapter"])
    except (BufferFormatError, OSError):
        return "lmdb" if (directory / "data").exists() else "file"


def _identity(directory: Path, disk: Disk, report: RepairReport) -> None:
    """buffer.json from the records, where it is missing or damaged."""
    path = directory / layout.NAME
    if path.exists():
        try:
            layout.read(path)
            return
        except BufferFormatError:
            _aside(directory, path, report)
    adapter = _adapter(directory)
    dimension, identity = _shape_of_environment(directory) if adapter == "lmdb" else _shape_of_log(directory)
    if not (dimension and identity):
        raise BufferFormatError(f"{directory} has no readable record to rebuild {layout.NAME} from.")
    content = {"format": layout.FORMAT, "dimension": dimension, "adapter": adapter, "id": identity}
    replace_file(disk, path, layout.sealed(content))
    report.actions.append(f"{layout.NAME} rebuilt from the records: dimension {dimension}")


def _shape_of_log(directory: Path) -> tuple[int, str]:
    """Dimension and id that its frames tell."""
    dimension, identity = 0, ""
    for segment_file in segment_files(directory / "log"):
        for found in frames(_segment(segment_file).view(), 0, SegmentScan()):
            if found.kind == Kind.SEGMENT:
                identity = identity or str(msgpack.unpackb(found.body)["buffer"])
            elif found.kind == Kind.EXPERIENCE:
                dimension = FIXED.unpack_from(found.body)[9]
        if dimension and identity:
            break
    return dimension, identity


def _shape_of_environment(directory: Path) -> tuple[int, str]:
    """Dimension that its first experience tells, and a new id: nothing in an environment names the old one."""
    store = LmdbStore(directory / "data", Disk(), map_bytes=BufferConfig().lmdb_map_bytes, read_only=True)
    try:
        found = (item for item in store.scan(ScanReport()) if item.kind == Kind.EXPERIENCE)
        return next((FIXED.unpack_from(item.body)[9] for item in found), 0), uuid.uuid4().hex
    finally:
        store.close()


def _entries(directory: Path, report: RepairReport) -> None:
    """Keep the environment's file where some of its entries are damaged: the compaction after this leaves them out."""
    path, scan = store_lmdb.path_of(directory / "data"), ScanReport()
    if not path.exists():  # a crash during `shrink`: opening takes the old one back
        return
    store = LmdbStore(directory / "data", Disk(), map_bytes=BufferConfig().lmdb_map_bytes, read_only=True)
    try:
        for _ in store.scan(scan):
            pass
    finally:
        store.close()
    if scan.damages:
        _aside(directory, path, report, keep=True)
        report.lost_bytes += scan.dropped_bytes


def _segments(directory: Path, identity: str, disk: Disk, report: RepairReport) -> None:
    """Rewrite each damaged segment with its good frames, under its own number."""
    for path in segment_files(directory / "log"):
        segment, scan = _segment(path), SegmentScan()
        view = segment.view()
        good = [found for found in frames(view, 0, scan) if found.kind != Kind.SEGMENT]
        lost = sum(damage.size_bytes for damage in scan.damages)
        rest = scan.torn_bytes
        if not lost and not rest:
            continue
        opening = opening_entry(identity, read_gone(segment))
        parts = list(encode(opening, 0))
        for found in good:
            parts.extend(encode(Entry(found.kind, bytes(found.body), found.body_crc, found.group), found.sequence))
        _aside(directory, path, report, keep=True)
        replace_file(disk, path, b"".join(parts))
        report.lost_bytes += lost + rest
        report.actions.append(f"{path.name}: {len(good)} good frames kept, {lost + rest} bytes lost")


def _missing(directory: Path, identity: str, disk: Disk, report: RepairReport) -> None:
    """An empty segment in the place of each missing one."""
    folder = directory / "log"
    paths = {int(path.stem): path for path in segment_files(folder)}
    gone = set().union(*(read_gone(_segment(path)) for path in paths.values())) if paths else set()
    named = set(paths)
    for path in (directory / "snapshots").glob("*.snapshot"):
        try:
            named |= {number for number, _, _ in Snapshot.decode(path.read_bytes(), path.name).segments}
        except BufferDamagedError:
            continue
    for number in range(1, max(named, default=0) + 1):
        if number not in paths and number not in gone:
            replace_file(disk, segment_path(folder, number), b"".join(encode(opening_entry(identity, set()), 0)))
            report.actions.append(f"segment {number} is lost: an empty one stands in its place")


def _derived(
    directory: Path, folder: Path, pattern: str, good: Callable[[Path], None], disk: Disk, report: RepairReport
) -> None:
    """Put damaged files that can be made again aside."""
    for path in sorted(folder.glob(pattern)) if folder.exists() else []:
        try:
            good(path)
        except BufferDamagedError:
            _aside(directory, path, report)
            disk.sync_directory(folder)


def _good_snapshot(path: Path) -> None:
    Snapshot.decode(path.read_bytes(), path.name)


def _good_index(path: Path) -> None:
    file.read(path)


def _aside(directory: Path, path: Path, report: RepairReport, *, keep: bool = False) -> None:
    folder = directory / "damaged"
    folder.mkdir(exist_ok=True)
    target = folder / f"{path.name}.broken"
    if keep:
        shutil.copyfile(path, target)
    else:
        path.replace(target)
    report.actions.append(f"{path.name} kept as damaged/{target.name}")


def _segment(path: Path) -> Segment:
    return Segment(int(path.stem), os.open(path, os.O_RDONLY | os.O_CLOEXEC))

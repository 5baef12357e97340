"""Opening a buffer's data: the newest good snapshot, then the log behind it; without one, the whole log."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from components.ttrl.buffer import checkpoint
from components.ttrl.buffer.errors import BufferDamagedError
from components.ttrl.buffer.log.frame import Found, Kind
from components.ttrl.buffer.snapshot import Snapshot, Snapshots
from components.ttrl.buffer.state import State
from components.ttrl.buffer.store import ScanReport, Store
from components.ttrl.buffer.store_file import FileStore, missing_segments

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecoveryReport:
    """What opening found."""

    records: int
    entries_replayed: int
    snapshot_sequence: int
    """Last sequence number the snapshot covered; 0 without one."""
    dropped_bytes: int
    """Bytes of damaged frames."""
    torn_bytes: int
    """Bytes of a commit a crash cut short: never acknowledged."""
    damages: tuple[str, ...]
    """One line a damage."""
    losses: tuple[str, ...]
    """Those of them with which records, changes or frames are lost."""
    seconds: float


def recover(state: State, store: Store, snapshots: Snapshots) -> RecoveryReport:
    """Fill an empty state from a store.

    Raises:
        BufferFormatError: segments are missing.
    """
    started = time.perf_counter()
    report = ScanReport()
    covered: dict[int, int] = {}
    base = 0
    with state.vectors.filling():
        if isinstance(store, FileStore):
            snapshot = _newest(store, snapshots, report)
            if snapshot is not None:
                covered, base = checkpoint.load(snapshot, state, store, report), snapshot.sequence
        entries = _whole_groups(state, store, covered, report)
        state.apply(sorted((e for e in entries if e.sequence > base), key=_order))
        state.settle()
    missing = state.frames.settle()
    if missing:
        report.damages.append(f"{missing} frames are missing: their experiences stay without them")
    losses, damages = tuple(report.damages), (*report.remade, *report.damages)
    for damage in damages:
        log.warning("%s: %s", snapshots.directory.parent, damage)
    return RecoveryReport(
        len(state.rows), len(entries), base, report.dropped_bytes, report.torn_bytes, damages, losses,
        time.perf_counter() - started,
    )  # fmt: skip


def _order(item: Found) -> int:
    return item.sequence


def _newest(store: FileStore, snapshots: Snapshots, report: ScanReport) -> Snapshot | None:
    good = []
    for path in snapshots.paths():
        try:
            good.append(Snapshot.decode(path.read_bytes(), path.name))
            break
        except BufferDamagedError as error:
            report.remade.append(str(error))
        except FileNotFoundError:
            continue  # the owner has written a newer one meanwhile
    store.settle({n for snapshot in good for first, last in snapshot.gone for n in range(first, last + 1)})
    for snapshot in good:
        _refuse_lost(snapshot, store)
        reason = checkpoint.usable(snapshot, store)
        if not reason:
            return snapshot
        log.info("snapshot %d is not used: %s", snapshot.sequence, reason)
        for number, end, _ in snapshot.segments:
            size = store.segments[number].size() if number in store.segments else end
            if size < end:
                report.damages.append(f"segment {number} ends at {size}, a snapshot covers {end} bytes of it: lost")
                report.dropped_bytes += end - size
    return None


def _refuse_lost(snapshot: Snapshot, store: FileStore) -> None:
    """The newest segments can only be missed by a snapshot that names them."""
    lost = [n for n, _, _ in snapshot.segments if n not in store.segments and n not in store.gone]
    if lost:
        raise missing_segments(store.directory, lost)


def _whole_groups(state: State, store: Store, covered: dict[int, int], report: ScanReport) -> list[Found]:
    """All entries but experiences that lack a frame written with them (a torn commit)."""
    entries: list[Found] = []
    blobs = 0
    for found in store.scan(report, covered):
        state.sequence = max(state.sequence, found.sequence)
        if found.kind == Kind.EXPERIENCE and found.group > blobs:
            report.damages.append(f"experience {found.sequence} lacks frames written with it: dropped")
            blobs = 0
            continue
        blobs = blobs + 1 if found.kind == Kind.BLOB else 0
        entries.append(found)
    return entries

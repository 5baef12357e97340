"""Work behind the owner's back: snapshots, compaction, retention, and the index. One piece at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from components.ttrl.buffer import checkpoint
from components.ttrl.buffer.compaction import Compaction, CompactionReport, candidates
from components.ttrl.buffer.config import BufferConfig
from components.ttrl.buffer.disk import Disk
from components.ttrl.buffer.errors import ExperienceBufferError
from components.ttrl.buffer.journal import Journal
from components.ttrl.buffer.snapshot import Snapshots
from components.ttrl.buffer.state import State
from components.ttrl.buffer.store import Store
from components.ttrl.buffer.store_file import FileStore
from components.ttrl.buffer.store_lmdb import LmdbStore

log = logging.getLogger(__name__)
TICK_S = 1.0
COMPACTION_EVERY_S = 5.0
EXPIRY_EVERY_S = 600.0
PURGE_EVERY_ENTRIES = 50_000
BUILD_S, BUILD_GROWTH = 5.0, 0.5
"""No index is begun while the buffer would grow by this share in this time: it would be out of date when it is done,
and searches scan what it does not cover."""
DAY_S = 86_400.0


class Maintenance:
    """Snapshots, compaction and retention of one buffer.

    Args:
        config: When what is due.
        state: Memory.
        store: The store.
        snapshots: The snapshot folder.
        journal: The writer.
        disk: File layer.
        mutex: The state lock.
        clock: Seconds since 1970.
        expire: Removes what is past retention; returns how many.
        index_due: Called every tick; starts or finishes index rebuilds.
    """

    def __init__(
        self, config: BufferConfig, state: State, store: Store, snapshots: Snapshots, journal: Journal, disk: Disk,
        mutex: threading.RLock, clock: Callable[[], float], expire: Callable[[], int], index_due: Callable[[], None],
    ) -> None:  # fmt: skip
        self.config, self.state, self.store, self.snapshots = config, state, store, snapshots
        self.journal, self.disk, self.mutex, self.clock = journal, disk, mutex, clock
        self.expire, self.index_due = expire, index_due
        self.busy = threading.RLock()
        """Held by whichever piece of work is under way."""
        self.counts = {"snapshots": 0, "compactions": 0, "compacted_bytes": 0, "expired": 0, "failures": 0}
        self.last_error = ""
        self._saved = (0, 0)  # entries and bytes at the last snapshot
        self._saved_sequence = state.sequence
        self._purged = 0
        self._tended = (time.monotonic(), 0)  # when, and entries then
        self._next_snapshot = self._next_compaction = self._next_expiry = 0.0
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin working in the background."""
        self.journal.on_batch = self._notice
        self._thread = threading.Thread(target=self._run, name="buffer-maintenance", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the piece under way and end."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _notice(self) -> None:
        if self._snapshot_due() and not self._wake.is_set():
            self._wake.set()

    def _snapshot_due(self) -> bool:
        entries, size = self._saved
        return (self.journal.entries - entries >= self.config.snapshot_interval
                or self.journal.bytes - size >= self.config.snapshot_bytes)  # fmt: skip

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(TICK_S)
            if self._stop.is_set():
                return
            pause = self._next_snapshot - time.monotonic()
            if self._wake.is_set() and pause > 0 and self._stop.wait(min(pause, TICK_S)):
                return
            self._wake.clear()
            for work in (self._snapshot_if_due, self._compact_if_due, self._expire_if_due, self._tend_index):
                self._guarded(work)

    def _guarded(self, work: Callable[[], Any]) -> None:
        try:
            with self.busy:
                if not self._stop.is_set():
                    work()
        except Exception as error:  # whatever it is: the other kinds of work must go on
            self.counts["failures"] += 1
            self.last_error = f"{work.__name__.strip('_')}: {error}"
            expected = isinstance(error, OSError | ExperienceBufferError)
            log.warning("buffer maintenance, %s (tried again later)", self.last_error, exc_info=not expected)

    def _snapshot_if_due(self) -> None:
        now = time.monotonic()
        if self._snapshot_due() and now >= self._next_snapshot:
            self.snapshot()
            spent = time.monotonic() - now
            self._next_snapshot = time.monotonic() + spent * (1.0 / self.config.snapshot_duty - 1.0)

    def _compact_if_due(self) -> None:
        if time.monotonic() >= self._next_compaction:
            while self.compact() and not self._stop.is_set():
                pass
            self._next_compaction = time.monotonic() + COMPACTION_EVERY_S

    def _expire_if_due(self) -> None:
        if time.monotonic() >= self._next_expiry:
            self.counts["expired"] += self.expire()
            self._next_expiry = time.monotonic() + min(EXPIRY_EVERY_S, self.config.retention_days * DAY_S / 100)

    def _tend_index(self) -> None:
        (before, entries), now = self._tended, time.monotonic()
        self._tended = (now, self.journal.entries)
        growth = (self.journal.entries - entries) / max(now - before, 1e-6) * BUILD_S
        if growth <= BUILD_GROWTH * len(self.state.slot_of):
            self.index_due()

    def snapshot(self, *, only: bool = False) -> None:
        """Write a snapshot now.

        Args:
            only: Drop all older ones.

        Raises:
            OSError: it could not be written.
            BufferDamagedError: it reads back wrong.
        """
        if not isinstance(self.store, FileStore):
            return
        with self.busy:
            with self.journal.commit.io:
                mark = (self.journal.entries, self.journal.bytes)
                frozen = checkpoint.freeze(self.state, self.store)
            self.snapshots.write(checkpoint.snapshot_of(frozen))
            if only:
                self.snapshots.keep(1)
            self._saved, self._saved_sequence = mark, frozen.sequence
            self.counts["snapshots"] += 1

    def snapshot_if_changed(self) -> None:
        """Write a snapshot unless the newest one says it all."""
        if self.state.sequence != self._saved_sequence or not self.snapshots.paths():
            self.snapshot()

    def compact(self, numbers: list[int] | None = None, *, paced: bool = True) -> CompactionReport | None:
        """Rewrite segments: those given, or those worth it; None where there is nothing to do.

        Raises:
            OSError: nothing has changed.
        """
        with self.busy:
            if isinstance(self.store, LmdbStore):
                self._purge(forced=numbers is not None)
                return None
            assert isinstance(self.store, FileStore)
            if numbers is not None:
                with self.journal.commit.io:
                    self.store.seal()
            chosen = numbers if numbers is not None else candidates(
                self.state, self.store, self.config.compaction_dead_share, self.journal.commit.io
            )  # fmt: skip
            if not chosen:
                return None
            budget = self.config.compaction_bytes_per_s if paced else 0
            work = Compaction(self.state, self.store, self.disk, self.mutex, self.journal.commit.io, budget)
            report = work.run(chosen, self.journal.write_now, self._stop.is_set if paced else lambda: False)
            if report is None:
                return None
            with self.journal.commit.io:
                self.store.detach(chosen)
            self.snapshot(only=True)
            self.store.delete_detached()
            self.counts["compactions"] += 1
            self.counts["compacted_bytes"] += report.bytes_before
            return report

    def _purge(self, *, forced: bool) -> None:
        assert isinstance(self.store, LmdbStore)
        if forced or self.journal.entries - self._purged >= PURGE_EVERY_ENTRIES:
            with self.journal.commit.io, self.mutex:
                self.store.purge(self.state.is_live)
            self._purged = self.journal.entries

    def compact_all(self) -> int:
        """Rewrite everything that holds a dead byte; returns the bytes freed."""
        before = self.store.bytes_on_disk()
        if isinstance(self.store, LmdbStore):
            with self.busy, self.journal.commit.io, self.mutex:
                self.store.purge(self.state.is_live, damaged=True)
                self.store.shrink()
        else:
            assert isinstance(self.store, FileStore)
            with self.busy:
                with self.journal.commit.io:
                    self.store.seal()
                    every = [number for number, _, _ in self.store.extents() if number != self.store.active]
                for group in grouped(every, self.store):
                    self.compact(group, paced=False)
        return before - self.store.bytes_on_disk()


def grouped(numbers: list[int], store: FileStore) -> list[list[int]]:
    """Neighbouring segments that together fill about one segment."""
    result: list[list[int]] = []
    total = 0
    for number in numbers:
        end = store.segments[number].end
        if not result or total + end > store.segment_bytes:
            result.append([])
            total = 0
        result[-1].append(number)
        total += end
    return result

"""From changes to durable, applied entries: numbers them, writes them in groups, keeps memory in step, answers for
faults."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from components.ttrl.buffer.changes import Changes
from components.ttrl.buffer.commit import GroupCommit
from components.ttrl.buffer.config import BufferConfig
from components.ttrl.buffer.disk import Disk
from components.ttrl.buffer.errors import BufferFullError, BufferWriteError
from components.ttrl.buffer.eviction import choose_victims
from components.ttrl.buffer.log.frame import Entry, Found
from components.ttrl.buffer.state import State
from components.ttrl.buffer.store import Store
from components.ttrl.buffer.writes import Again, Pending, Write

log = logging.getLogger(__name__)
SPACE_CHECK_S = 0.2


class Journal:
    """The only writer of the store.

    Args:
        directory: The buffer's directory, for messages and free space.
        config: Limits.
        state: Memory, applied to after each durable batch.
        store: Where entries go.
        disk: File layer.
        mutex: The state lock.
        changes: Makes removals for evictions.
        weights: Priorities of the live slots, ascending by slot.
    """

    def __init__(
        self, directory: Path, config: BufferConfig, state: State, store: Store, disk: Disk, mutex: threading.RLock,
        changes: Changes, weights: Callable[[np.ndarray], np.ndarray],
    ) -> None:  # fmt: skip
        self.directory, self.config, self.state, self.store = directory, config, state, store
        self.disk, self.mutex, self.changes, self.weights = disk, mutex, changes, weights
        self.commit = GroupCommit(self._write_batch, config.max_batch_bytes, self._brief)
        self.full = False
        self.entries = 0
        """Entries written since opening."""
        self.bytes = 0
        """Bytes of their bodies."""
        self.evicted = 0
        self.failed = 0
        self.on_batch: Callable[[], None] = lambda: None
        self._retry_at = self._space_at = 0.0

    def submit(self, change: Write) -> int:
        """Make a change durable and visible; returns its sequence number."""
        result: int = self.commit.submit(change)
        return result

    def enqueue(self, change: Write) -> asyncio.Future[int]:
        """`submit` for coroutines."""
        return self.commit.enqueue(change)

    def write_now(self, entries: list[Entry]) -> None:
        """Append ready-made entries. The caller holds the commit lock."""
        first = self.state.sequence + 1
        self._store(entries, range(first, first + len(entries)))

    def _brief(self, changes: int, size: int) -> bool:
        """Whether a batch needs only a write and a flush: the disk was not full, and nothing is to be evicted."""
        state, config = self.state, self.config
        return (not self.full and len(state.slot_of) + changes <= config.capacity_records
                and state.live_bytes + 2 * size <= config.capacity_bytes)  # fmt: skip

    def _write_batch(self, batch: list[Write]) -> None:
        pending = Pending()
        entries: list[Entry] = []
        spans: list[tuple[Write, int]] = []
        later: list[Write] = []
        for change in batch:
            try:
                built = change.build(pending)
            except Again:
                later.append(change)
            except Exception as error:
                change.error = error
            else:
                if isinstance(built, int):
                    change.result = built
                else:
                    entries += built
                    spans.append((change, len(entries)))
        self._commit(entries, spans, pending)
        if later:
            self._write_batch(later)

    def _commit(self, entries: list[Entry], spans: list[tuple[Write, int]], pending: Pending) -> None:
        """Store a batch and answer its writes; `spans`: each with the number of entries up to its last."""
        first = self.state.sequence + 1
        if entries:
            try:
                entries += self._evictions(pending)
                self._store(entries, range(first, first + len(entries)))
            except Exception as error:
                for change, _ in spans:
                    change.error = error
                return
        for change, end in spans:
            change.result = first + end - 1 if entries else 0

    def _store(self, entries: list[Entry], sequences: range) -> None:
        now = time.monotonic()
        if self.full and now < self._retry_at:
            raise self._full_error()
        try:
            if self.full or now >= self._space_at:
                self._space_at = now + SPACE_CHECK_S
                if self.disk.free_bytes(self.directory) < self.config.min_free_bytes:
                    raise OSError(errno.ENOSPC, "less free space than buffer.min_free_bytes")
            addresses = self.store.append(entries, sequences)
        except OSError as error:
            self.state.sequence = sequences[-1]  # never used again
            self.failed += 1
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                self.full, self._retry_at = True, time.monotonic() + self.config.disk_retry_s
                raise self._full_error() from error
            raise BufferWriteError(
                f"the log of {self.directory} could not be written ({error}): nothing was stored.",
                remedy="Check the device; the next append goes to a fresh segment.",
            ) from error
        if self.full:
            log.info("space is back: %s takes records again", self.directory)
            self.full = False
        kinds, bodies, checksums, groups = zip(*entries)
        items = zip(kinds, groups, sequences, addresses, bodies, checksums)
        found = [tuple.__new__(Found, item) for item in items]
        with self.mutex:
            self.state.apply(found)
        self.entries += len(entries)
        self.bytes += sum(map(len, bodies))
        self.on_batch()

    def _evictions(self, pending: Pending) -> list[Entry]:
        state, config = self.state, self.config
        records = len(state.slot_of) + len(pending.appended) - len(pending.removed) - config.capacity_records
        size = state.live_bytes + pending.bytes - config.capacity_bytes
        if records <= 0 and size <= 0:
            return []
        with self.mutex:
            slots = state.rows.live()
            victims = choose_victims(state, config, self.weights(slots), records, size, pending.changed)
        self.evicted += len(victims)
        return [self.changes.removal(int(slot), "evicted", pending) for slot in victims]

    def _full_error(self) -> BufferFullError:
        return BufferFullError(
            f"the disk of {self.directory} is full: nothing was written; searching and sampling go on.",
            remedy="Free space; appends work again by themselves.",
        )

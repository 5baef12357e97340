"""The owner: one object that holds a buffer directory, its log, its memory and its background work.

Guarantees: `append`, `update` and `remove` return when the change survives a power cut; a record is found by `get`,
`search_knn` and `sample` from that moment on, and never after its removal. Reads never wait for a flush, a snapshot, a
compaction or an index rebuild.
Not guaranteed: order between concurrent callers (the sequence number says what it was); what happened to a write
whose call raised `BufferWriteError` while the device also refused to take it back (it may be there after a restart).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from components.ttrl.buffer import layout, privacy
from components.ttrl.buffer.changes import Changes, Redact
from components.ttrl.buffer.compaction import CompactionReport
from components.ttrl.buffer.config import BufferConfig
from components.ttrl.buffer.disk import Disk
from components.ttrl.buffer.errors import (
    BufferDamagedError,
    BufferNotReadyError,
    RecordNotFoundError,
    SegmentsMissingError,
)
from components.ttrl.buffer.identity import id_of, key_of
from components.ttrl.buffer.index.keeper import Keeper
from components.ttrl.buffer.journal import Journal
from components.ttrl.buffer.lock import OwnerLock
from components.ttrl.buffer.maintenance import DAY_S, Maintenance
from components.ttrl.buffer.query import Neighbour, Where
from components.ttrl.buffer.reading import Reader
from components.ttrl.buffer.record import Experience, vector_bytes
from components.ttrl.buffer.recovery import recover
from components.ttrl.buffer.search import Search
from components.ttrl.buffer.selection import Batch, Selection
from components.ttrl.buffer.snapshot import Snapshots
from components.ttrl.buffer.state import State
from components.ttrl.buffer.store import Store
from components.ttrl.buffer.store_file import FileStore
from components.ttrl.buffer.vectors import hybrid

log = logging.getLogger(__name__)
VIEW_TRIES = 5
"""So often a view of a log that is being written is taken again when it proves incomplete."""


class ExperienceBuffer:
    """See the module. Made by `open`; every method may be called from any thread."""

    def __init__(
        self, directory: Path, config: BufferConfig, *, read_only: bool, lock: OwnerLock | None, store: Store,
        disk: Disk, redact: Redact | None, clock: Callable[[], float], seed: int,
    ) -> None:  # fmt: skip
        self.directory, self.config, self.read_only, self.clock = directory, config, read_only, clock
        self._lock, self._store = lock, store
        self._closed = False
        self._overwriting: set[bytes] = set()  # expired, their bytes perhaps not overwritten yet
        self._state = State(config)
        self._mutex = self._state.mutex
        snapshots = Snapshots(directory / "snapshots", disk, config.generations)
        self.recovery = recover(self._state, store, snapshots)
        self._selection = Selection(self._state, config, clock, seed)
        self._changes = Changes(self._state, store, config, clock, redact)
        self._reader = Reader(directory, self._state, store, self._changes, self._mutex)
        self._journal = Journal(directory, config, self._state, store, disk, self._mutex, self._changes,
                                self._selection.weights)  # fmt: skip
        self._index = Keeper(directory / "index", config, self._state, disk, self._mutex, read_only=read_only)
        self._search = Search(config, self._state, self._index, self._mutex)
        self._maintenance = Maintenance(config, self._state, store, snapshots, self._journal, disk, self._mutex, clock,
                                        self.expire, self._index.tend)  # fmt: skip
        if not read_only and config.background:
            self._maintenance.start()

    @classmethod
    def open(
        cls, directory: Path, config: BufferConfig, *, read_only: bool = False, redact: Redact | None = None,
        clock: Callable[[], float] = time.time, seed: int = 0, disk: Disk | None = None,
    ) -> Self:  # fmt: skip
        """Open a buffer, making it if the directory is empty or missing.

        Args:
            directory: The buffer's own folder.
            config: Its section; `dimension` and `adapter` must be those it was made with.
            read_only: A view of what is durable now; any number of them may be open beside the owner.
            redact: Called on every experience before it is encoded; returns what may be stored.
            clock: Seconds since 1970.
            seed: Seed of sampling.
            disk: File layer (tests).

        Raises:
            BufferLockedError: another process owns it.
            BufferFormatError: not a buffer, of a newer format, of another dimension or adapter, or incomplete.
        """
        arguments: dict[str, Any] = {"read_only": read_only, "disk": disk or Disk(), "redact": redact, "clock": clock,
                                     "seed": seed}  # fmt: skip
        for _ in range(VIEW_TRIES if read_only else 0):
            with contextlib.suppress(SegmentsMissingError):  # the owner may have begun one after they were listed
                return cls._open(Path(directory), config, **arguments)
        return cls._open(Path(directory), config, **arguments)

    @classmethod
    def _open(cls, directory: Path, config: BufferConfig, *, read_only: bool, disk: Disk, **others: Any) -> Self:
        lock: OwnerLock | None = None
        if not read_only:
            directory.mkdir(parents=True, exist_ok=True)
            layout.refuse_foreign(directory)
            lock = OwnerLock(directory)
        store: Store | None = None
        try:
            identity = layout.load_or_create(directory, config, disk, read_only=read_only)
            store = layout.open_store(directory, config, identity, disk, read_only=read_only)
            return cls(directory, config, read_only=read_only, lock=lock, store=store, disk=disk, **others)
        except BaseException:
            if store is not None:
                store.close()
            if lock is not None:
                lock.release()
            raise

    # --- writing

    def append(self, experience: Experience, frames: Sequence[bytes] = ()) -> int:
        """Store an experience; returns its sequence number when it is durable.

        Args:
            experience: What to store. The same content under the same id again is stored once.
            frames: Encoded images. Their digests are added behind `experience.frames`; each is stored once.

        Raises:
            InvalidExperienceError: refused before a byte was written.
            BufferFullError: no space; reads go on.
            BufferWriteError: the device failed; the record is not stored.
        """
        self._ready_to_write()
        return self._journal.submit(self._changes.append(experience, frames))

    async def append_async(self, experience: Experience, frames: Sequence[bytes] = ()) -> int:
        """`append` for coroutines: concurrent callers share one flush, which on a fast device the loop does itself."""
        self._ready_to_write()
        return await self._journal.enqueue(self._changes.append(experience, frames))

    def update(self, identity: str, **changes: Any) -> int:
        """Change fields of a stored experience; returns the change's sequence number.

        Args:
            identity: Its id.
            changes: Fields of `Experience`. Changes of `confidence`, `reward`, `retrieval_count`, `success_count` and
                `priority` log the numbers only; anything else (labels, votes, embeddings ...) stores the record anew.
        """
        self._ready_to_write()
        return self._journal.submit(self._changes.update(identity, changes))

    async def update_async(self, identity: str, **changes: Any) -> int:
        """`update` for coroutines."""
        self._ready_to_write()
        return await self._journal.enqueue(self._changes.update(identity, changes))

    def record_retrieval(self, identities: Iterable[str], *, success: bool | None = None) -> None:
        """Count a retrieval of each id (those gone meanwhile are skipped); `success` says whether it helped."""
        self._ready_to_write()
        self._journal.submit(self._changes.retrievals(identities, success))

    def remove(self, identity: str) -> int:
        """Remove an experience; returns the removal's sequence number. Its bytes go with a later compaction.

        Raises:
            RecordNotFoundError: no such record.
        """
        self._ready_to_write()
        return self._journal.submit(self._changes.remove([_key(identity)], "removed", strict=True))

    def erase(self, *, ids: Sequence[str] = (), sources: Sequence[str] = (), subjects: Sequence[str] = ()) -> int:
        """Remove experiences and every byte of them from log, snapshots, frames and index; returns how many.

        The bytes of records removed or evicted before that fall under the same words go too, and are not counted.

        Raises:
            OSError: removed, but not all bytes are overwritten yet; call again.
        """
        self._ready_to_write()
        asked = [_key(identity) for identity in ids]
        with self._maintenance.busy:
            with self._mutex:
                keys = privacy.chosen_keys(self._state.rows, ids=asked, sources=sources, subjects=subjects)
            if keys:
                self._journal.submit(self._changes.remove(keys, "erased", strict=False))
            self._index.forget()
            privacy.overwrite(self._maintenance, self.directory, {*keys, *asked},
                              (lambda e: e.source in sources or e.subject in subjects)
                              if sources or subjects else None)  # fmt: skip
        return len(keys)

    def expire(self) -> int:
        """Remove and overwrite what is older than `retention_days`; returns how many.

        Raises:
            OSError: removed, but not all bytes are overwritten yet; the next call goes on.
        """
        self._ready_to_write()
        limit = self.clock() - self.config.retention_days * DAY_S
        with self._mutex:
            rows = self._state.rows
            live = rows.live()
            keys = [rows.key(slot) for slot in live[rows.created[live] < limit]]
        if keys or self._overwriting:
            with self._maintenance.busy:
                if keys:
                    self._journal.submit(self._changes.remove(keys, "expired", strict=False))
                self._overwriting.update(keys)
                self._index.forget()
                privacy.overwrite(self._maintenance, self.directory, self._overwriting,
                                  lambda e: e.created_s < limit)  # fmt: skip
                self._overwriting.clear()
        return len(keys)

    def _ready_to_write(self) -> None:
        if self._closed or self.read_only:
            self._ready_to_read()
            raise BufferNotReadyError(
                f"the buffer {self.directory} was opened read-only: nothing was written.",
                remedy="Ask the process that owns it.",
            )

    # --- reading

    def get(self, identity: str) -> Experience:
        """The experience with this id, as it stands now.

        Raises:
            RecordNotFoundError: no such record.
            BufferDamagedError: its bytes do not match their checksum.
        """
        self._ready_to_read()
        return self._reader.experience(_key(identity))

    def __contains__(self, identity: str) -> bool:
        return _key(identity) in self._state.slot_of

    def __len__(self) -> int:
        return len(self._state.slot_of)

    def ids(self) -> list[str]:
        """Ids of all live records, in order of their sequence numbers."""
        with self._mutex:
            rows = self._state.rows
            slots = rows.live()
            return [id_of(rows.key(slot)) for slot in slots[np.argsort(rows.sequence[slots])]]

    def frame(self, digest: str) -> bytes:
        """A stored frame's bytes.

        Raises:
            RecordNotFoundError: no live experience has it.
            BufferDamagedError: it is lost.
        """
        self._ready_to_read()
        return self._reader.frame(digest)

    def frames(self, identity: str) -> list[bytes]:
        """All frames of an experience, in its order."""
        return [self.frame(digest) for digest in self.get(identity).frames]

    def hybrid(self, visual: np.ndarray | None, text: np.ndarray | None = None) -> np.ndarray:
        """The (dimension,) query for a clip and a question, weighted as stored records are."""
        index = self.config.index
        return hybrid(visual, text, visual_weight=index.visual_weight, normalise=index.metric == "cosine")

    def search_knn(self, embedding: np.ndarray, k: int, where: Where | None = None) -> list[Neighbour]:
        """The k nearest records, nearest first (fewer if there are fewer).

        Args:
            embedding: (dimension,) query, as `hybrid` makes it.
            k: How many.
            where: Only records that pass.

        Raises:
            InvalidExperienceError: wrong shape or not finite.
        """
        self._ready_to_read()
        query = np.frombuffer(vector_bytes(embedding, self.config.dimension, "query"), np.float32)
        return self._search.nearest(query, k, where)

    def sample(self, n: int, *, replacement: bool = False, beta: float = 0.4, where: Where | None = None) -> Batch:
        """Up to n experiences, drawn in proportion to their priorities, within the section's bounds.

        Args:
            n: How many; fewer where fewer qualify.
            replacement: Whether one may be drawn twice (then the source and diversity bounds do not apply).
            beta: Exponent of the importance weights (N p)^-beta.
            where: Only records that pass.
        """
        self._ready_to_read()
        with self._mutex:
            slots, values, share = self._selection.draw(n, replacement=replacement, where=where)
            keys = [self._state.rows.key(slot) for slot in slots]
            importance = (len(self._state.rows) * share) ** -beta
        kept, experiences = [], []
        for i, key in enumerate(keys):
            try:
                experiences.append(self._reader.experience(key))
                kept.append(i)
            except (RecordNotFoundError, BufferDamagedError) as error:
                log.warning("left out of a sample: %s", error)
        importance = importance[kept]
        return Batch(experiences, values[kept], importance / importance.max(initial=1e-300))

    def _ready_to_read(self) -> None:
        if self._closed:
            raise BufferNotReadyError(f"the buffer {self.directory} is closed.", remedy="Open it again.")

    # --- life

    def snapshot(self) -> None:
        """Write a snapshot now."""
        self._ready_to_write()
        self._maintenance.snapshot()

    def compact(self, *, everything: bool = False) -> CompactionReport | None:
        """Rewrite the segments worth it, now and without the I/O budget; `everything`: all of them."""
        self._ready_to_write()
        if everything:
            self._maintenance.compact_all()
            return None
        return self._maintenance.compact(paced=False)

    def rebuild_index(self) -> None:
        """Build the search index now and wait for it."""
        self._ready_to_write()
        self._index.rebuild()

    def stats(self) -> dict[str, Any]:
        """Counts, bytes, ages, latencies and state, as plain numbers, strings and maps of them."""
        with self._mutex:
            rows, state = self._state.rows, self._state
            live = rows.live()
            oldest = self.clock() - float(rows.created[live].min()) if len(live) else 0.0
            counts = {"records": len(rows), "frames": len(state.frames), "sequence": state.sequence,
                      "live_bytes": state.live_bytes, "oldest_age_s": oldest}  # fmt: skip
        condition = ("closed" if self._closed else "disk full" if self._journal.full else
                     "read-only" if self.read_only else "ready")  # fmt: skip
        return {
            **counts, "disk_bytes": self._store.bytes_on_disk(), "state": condition,
            "segments": len(self._store.segments) if isinstance(self._store, FileStore) else 0,
            "adapter": self.config.adapter, "dimension": self.config.dimension, "queue": self._journal.commit.waiting(),
            "appended": self._journal.entries, "evicted": self._journal.evicted, "failed_writes": self._journal.failed,
            "append_seconds": self._journal.commit.latency.quantiles(), "index": self._index.stats(),
            "maintenance": {**self._maintenance.counts, "last_error": self._maintenance.last_error},
            "recovery": {"seconds": self.recovery.seconds, "dropped_bytes": self.recovery.dropped_bytes,
                         "torn_bytes": self.recovery.torn_bytes, "damages": len(self.recovery.damages)},
        }  # fmt: skip

    def close(self) -> None:
        """Finish what is being written, write a last snapshot, give the directory back. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        self._maintenance.stop()
        self._index.close()
        self._journal.commit.close()
        with self._journal.commit.io:
            try:
                if not self.read_only:
                    self._maintenance.snapshot_if_changed()
            except OSError as error:
                log.warning("no snapshot at closing (%s): the next opening replays the log", error)
            finally:
                self._store.close()
                if self._lock is not None:
                    self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _key(identity: str) -> bytes:
    try:
        return key_of(identity)
    except (ValueError, AttributeError) as error:
        raise RecordNotFoundError(f"{identity!r} is not an experience id (a UUID).") from error

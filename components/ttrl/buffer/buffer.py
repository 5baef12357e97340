"""The owner: one object that holds a buffer directory, its log, its memory and its background work.

Guarantees: `append`, `update` and `remove` return when the change survives a power cut; a record is found by `get`,
`search_knn` and `sample` from that moment on, and never after its removal. Reads never wait for a flush.
Not guaranteed: order between concurrent callers (the sequence number says what it was).
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from crc32c import crc32c

from components.ttrl.buffer import layout
from components.ttrl.buffer.commit import Change, GroupCommit
from components.ttrl.buffer.config import BufferConfig
from components.ttrl.buffer.disk import Disk
from components.ttrl.buffer.errors import (
    BufferDamagedError,
    BufferFullError,
    BufferNotReadyError,
    BufferWriteError,
    DuplicateIdError,
    InvalidExperienceError,
    MissingFrameError,
    RecordNotFoundError,
)
from components.ttrl.buffer.eviction import choose_victims
from components.ttrl.buffer.identity import id_of, key_of
from components.ttrl.buffer.lock import OwnerLock
from components.ttrl.buffer.log.frame import Entry, Found, Kind, entry, frame_size
from components.ttrl.buffer.priority import priorities
from components.ttrl.buffer.query import Neighbour, Where
from components.ttrl.buffer.record import Experience, decode, digest_of, encode, vector_bytes
from components.ttrl.buffer.sampling import ProportionalSampler
from components.ttrl.buffer.state import PATCH, REASONS, REMOVE, State
from components.ttrl.buffer.store import ScanReport, Store
from components.ttrl.buffer.vectors import hybrid

log = logging.getLogger(__name__)
PATCHED = frozenset({"confidence", "reward", "retrieval_count", "success_count", "priority"})
Redact = Callable[[Experience], Experience]


@dataclass(frozen=True)
class Batch:
    """A sample: n experiences, their priorities and importance weights (n,), largest weight 1."""

    experiences: list[Experience]
    priorities: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class RecoveryReport:
    """What opening found."""

    records: int
    entries_replayed: int
    dropped_bytes: int
    torn_bytes: int
    damages: tuple[str, ...]
    snapshot_sequence: int
    seconds: float


class _Write(Change):
    """Entries for the log: built when the batch is written, under the commit lock."""

    __slots__ = ("build", "size")

    def __init__(self, build: Callable[[_Pending], list[Entry]], size: int) -> None:
        super().__init__()
        self.build, self.size = build, size


class _Pending:
    """What a batch adds before it is applied: later changes of the batch see earlier ones."""

    def __init__(self) -> None:
        self.origins: dict[bytes, int] = {}
        self.blobs: set[bytes] = set()
        self.removed: set[bytes] = set()
        self.bytes = 0


class ExperienceBuffer:
    """See the module. Made by `open`."""

    def __init__(
        self, directory: Path, config: BufferConfig, *, read_only: bool, lock: OwnerLock | None, store: Store,
        disk: Disk, redact: Redact | None, clock: Callable[[], float], seed: int,
    ) -> None:  # fmt: skip
        self.directory, self.config, self.read_only = directory, config, read_only
        self._lock, self._store, self._disk = lock, store, disk
        self._redact, self._clock = redact, clock
        self._mutex = threading.RLock()
        self._state = State(config)
        self._commit = GroupCommit(self._write_batch, config.max_batch_bytes)
        self._sampler = ProportionalSampler(np.zeros(0), seed=seed)
        self._sampler_at_s = -1e300
        self._full_until = 0.0
        self._full = False
        self._closed = False
        self.recovery = self._recover()

    @classmethod
    def open(
        cls, directory: Path, config: BufferConfig, *, read_only: bool = False, disk: Disk | None = None,
        redact: Redact | None = None, clock: Callable[[], float] = time.time, seed: int = 0,
    ) -> Self:  # fmt: skip
        """Open a buffer, making it if the directory is empty or missing.

        Args:
            directory: The buffer's own folder.
            config: Its section; `dimension` and `adapter` must be those it was made with.
            read_only: A view of what is durable now; any number of them may be open beside the owner.
            disk: File layer (tests).
            redact: Called on every experience before it is encoded; returns what may be stored.
            clock: Seconds since 1970.
            seed: Seed of sampling.

        Raises:
            BufferLockedError: another process owns it.
            BufferFormatError: not a buffer, of a newer format, of another dimension or adapter, or incomplete.
        """
        disk = disk or Disk()
        directory = Path(directory)
        lock = None
        if not read_only:
            directory.mkdir(parents=True, exist_ok=True)
            layout.refuse_foreign(directory)
            lock = OwnerLock(directory)
        try:
            identity = layout.load_or_create(directory, config, disk, read_only=read_only)
            store = layout.open_store(directory, config, identity, disk, read_only=read_only)
            return cls(directory, config, read_only=read_only, lock=lock, store=store, disk=disk, redact=redact,
                       clock=clock, seed=seed)  # fmt: skip
        except BaseException:
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
        return int(self._commit.submit(self._appending(experience, frames)))

    async def append_async(self, experience: Experience, frames: Sequence[bytes] = ()) -> int:
        """`append` for coroutines: concurrent callers share one flush."""
        return int(await self._commit.submit_async(self._appending(experience, frames)))

    def update(self, identity: str, **changes: Any) -> int:
        """Change fields of a stored experience; returns the change's sequence number.

        Args:
            identity: Its id.
            changes: Fields of `Experience`. Of `confidence`, `reward`, `retrieval_count`, `success_count` and `priority`
                only the numbers are logged; anything else (labels, votes, embeddings ...) stores the record anew.
        """
        return int(self._commit.submit(self._updating(identity, changes)))

    async def update_async(self, identity: str, **changes: Any) -> int:
        """`update` for coroutines."""
        return int(await self._commit.submit_async(self._updating(identity, changes)))

    def record_retrieval(self, identities: Iterable[str], *, success: bool | None = None) -> None:
        """Count a retrieval of each id (those gone meanwhile are skipped); `success` says whether it helped."""
        chosen = list(identities)
        gain = int(success is True)

        def build(pending: _Pending) -> list[Entry]:
            entries = []
            for identity in chosen:
                slot = self._slot_or_none(key_of(identity), pending)
                if slot is not None:
                    rows = self._state.rows
                    counts = {"retrieval_count": int(rows.retrieved[slot]) + 1,
                              "success_count": int(rows.succeeded[slot]) + gain}  # fmt: skip
                    entries.append(self._patch_entry(slot, counts))
            return entries

        self._ready_to_write()
        self._commit.submit(_Write(build, 64 * len(chosen)))

    def remove(self, identity: str) -> int:
        """Remove an experience for good; returns the removal's sequence number. Its bytes go with the next compaction.

        Raises:
            RecordNotFoundError: no such record.
        """
        return self._remove_keys([key_of(identity)], "removed", strict=True)

    def _remove_keys(self, keys: Sequence[bytes], reason: str, *, strict: bool = False) -> int:
        self._ready_to_write()

        def build(pending: _Pending) -> list[Entry]:
            entries = []
            for key in keys:
                slot = self._slot_or_none(key, pending)
                if slot is None:
                    if strict:
                        raise _not_found(id_of(key))
                    continue
                entries.append(self._remove_entry(slot, reason))
                pending.removed.add(key)
                pending.origins.pop(key, None)
            return entries

        return int(self._commit.submit(_Write(build, 64 * len(keys))) or 0)

    def _appending(self, experience: Experience, frames: Sequence[bytes]) -> Change:
        self._ready_to_write()
        if self._redact is not None:
            experience = self._redact(experience)
        supplied = {digest_of(frame): frame for frame in frames}
        if frames:
            experience = replace(experience, frames=(*experience.frames, *(digest_of(frame) for frame in frames)))
        body = encode(experience, self.config.dimension)
        size = len(body) + sum(map(len, frames))
        if size > self.config.max_record_bytes:
            raise InvalidExperienceError(
                f"experience {experience.id} takes {size} bytes, the limit is {self.config.max_record_bytes}:"
                " it was not stored.",
                remedy="Store fewer or smaller frames, or raise buffer.max_record_bytes.",
            )
        key, checksum = body[:16], crc32c(body)
        wanted = [bytes.fromhex(digest) for digest in experience.frames]
        blobs = {bytes.fromhex(digest): frame for digest, frame in supplied.items()}

        def build(pending: _Pending) -> list[Entry]:
            known = self._known_origin(key, pending)
            if known is not None:
                origin, sequence = known
                if origin != checksum:
                    raise DuplicateIdError(
                        f"id {id_of(key)} is taken by a record with other content: nothing was stored.",
                        remedy="Give every experience its own id (the default), or use update().",
                    )
                return [] if sequence is None else sequence
            missing = [d for d in wanted if d not in blobs and d not in pending.blobs and d not in self._state.blobs]
            if missing:
                raise MissingFrameError(
                    f"experience {id_of(key)} names frame {missing[0].hex()}, which is neither handed in nor stored"
                    f" ({len(missing)} missing): it was not stored.",
                    remedy="Pass the frames' bytes to append().",
                )
            fresh = [d for d in dict.fromkeys(wanted) if d in blobs and d not in pending.blobs
                     and d not in self._state.blobs]  # fmt: skip
            entries = [entry(Kind.BLOB, digest + blobs[digest]) for digest in fresh]
            entries.append(Entry(int(Kind.EXPERIENCE), body, checksum, len(fresh)))
            pending.blobs.update(fresh)
            pending.origins[key] = checksum
            pending.bytes += sum(frame_size(len(e.body)) for e in entries)
            return entries

        return _Write(build, size)

    def _updating(self, identity: str, changes: dict[str, Any]) -> Change:
        self._ready_to_write()
        unknown = changes.keys() - {*Experience.__slots__} | changes.keys() & {"id", "sequence", "created_s"}
        if unknown:
            raise InvalidExperienceError(f"update: {', '.join(sorted(unknown))} cannot be changed; nothing was stored.")
        key = key_of(identity)

        def build(pending: _Pending) -> list[Entry]:
            slot = self._slot_or_none(key, pending)
            if slot is None:
                raise _not_found(identity)
            if changes.keys() <= PATCHED:
                return [self._patch_entry(slot, changes)]
            present = self._decoded(self._store.read(int(self._state.rows.address[slot])), slot)
            newer = replace(present, **changes, updated_s=self._clock())
            if self._redact is not None:
                newer = self._redact(newer)
            unknown_frames = [d for d in newer.frames if bytes.fromhex(d) not in self._state.blobs]
            if unknown_frames:
                raise MissingFrameError(f"update of {identity} names frame {unknown_frames[0]}, which is not stored.")
            body = encode(newer, self.config.dimension, origin=int(self._state.rows.origin[slot]))
            return [entry(Kind.EXPERIENCE, body)]

        return _Write(build, 64)

    def _patch_entry(self, slot: int, changes: dict[str, Any]) -> Entry:
        rows = self._state.rows
        override = rows.override[slot]
        if "priority" in changes:
            override = float("nan") if changes["priority"] is None else float(changes["priority"])
        confidence = float(changes.get("confidence", rows.confidence[slot]))
        reward = float(changes.get("reward", rows.reward[slot]))
        retrieved = int(changes.get("retrieval_count", rows.retrieved[slot]))
        succeeded = int(changes.get("success_count", rows.succeeded[slot]))
        if not (0 <= confidence <= 1 and np.isfinite(reward) and not override < 0 and not np.isinf(override)
                and 0 <= succeeded <= retrieved < 2**32):  # fmt: skip
            raise InvalidExperienceError(f"update of {id_of(rows.key(slot))} to {changes} is out of range.")
        body = PATCH.pack(rows.key(slot), self._clock(), override, confidence, reward, retrieved, succeeded,
                          int(rows.sequence[slot]))  # fmt: skip
        return entry(Kind.PATCH, body)

    def _remove_entry(self, slot: int, reason: str) -> Entry:
        rows = self._state.rows
        return entry(Kind.REMOVE, REMOVE.pack(rows.key(slot), int(rows.sequence[slot]), REASONS.index(reason)))

    def _known_origin(self, key: bytes, pending: _Pending) -> tuple[int, Any] | None:
        if key in pending.origins:
            return pending.origins[key], []
        slot = self._state.rows.slot_of.get(key)
        if slot is None or key in pending.removed:
            return None
        return int(self._state.rows.origin[slot]), int(self._state.rows.sequence[slot])

    def _slot_or_none(self, key: bytes, pending: _Pending) -> int | None:
        return None if key in pending.removed else self._state.rows.slot_of.get(key)

    def _ready_to_write(self) -> None:
        if self._closed:
            raise BufferNotReadyError(f"the buffer {self.directory} is closed.", remedy="Open it again.")
        if self.read_only:
            raise BufferNotReadyError(
                f"the buffer {self.directory} was opened read-only: nothing was written.",
                remedy="Ask the process that owns it.",
            )

    def _write_batch(self, batch: list[Change]) -> None:
        """Build, number, write and apply a batch; every change gets its result or error."""
        pending = _Pending()
        entries: list[Entry] = []
        spans: list[tuple[Change, int]] = []
        for change in batch:
            assert isinstance(change, _Write)
            try:
                built: Any = change.build(pending)
            except Exception as error:
                change.error = error
                continue
            if isinstance(built, int):
                change.result = built
                continue
            entries.extend(built)
            spans.append((change, len(entries)))
        if not spans:
            return
        entries += self._evictions(pending)
        first = self._state.sequence + 1
        sequences = range(first, first + len(entries))
        if entries:
            try:
                self._store_entries(entries, sequences)
            except Exception as error:
                for change, _ in spans:
                    change.error = error
                return
        for change, end in spans:
            change.result = first + end - 1

    def _store_entries(self, entries: list[Entry], sequences: range) -> None:
        if self._full and time.monotonic() < self._full_until:
            raise _full(self.directory)
        try:
            if self._disk.free_bytes(self.directory) < self.config.min_free_bytes:
                raise OSError(errno.ENOSPC, "less free space than buffer.min_free_bytes")
            addresses = self._store.append(entries, sequences)
        except OSError as error:
            self._state.sequence = sequences[-1]  # never used again
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                self._full, self._full_until = True, time.monotonic() + self.config.disk_retry_s
                raise _full(self.directory) from error
            raise BufferWriteError(
                f"the log of {self.directory} could not be written ({error}): the record is not stored.",
                remedy="Check the device; the next append goes to a fresh segment.",
            ) from error
        if self._full:
            log.info("space is back: %s takes records again", self.directory)
            self._full = False
        found = [
            Found(item.kind, item.group, sequence, address, memoryview(item.body), item.body_crc)
            for item, sequence, address in zip(entries, sequences, addresses)
        ]
        with self._mutex:
            self._state.apply(found)

    def _evictions(self, pending: _Pending) -> list[Entry]:
        state, config = self._state, self.config
        records = len(state.rows) + len(pending.origins) - len(pending.removed) - config.capacity_records
        size = state.live_bytes + pending.bytes - config.capacity_bytes
        if records <= 0 and size <= 0:
            return []
        with self._mutex:
            weights = self._priorities(state.rows.live())
            victims = choose_victims(state, config, weights, records, size, pending.removed)
        return [self._remove_entry(int(slot), "evicted") for slot in victims]

    # --- reading

    def get(self, identity: str) -> Experience:
        """The experience with this id, as it stands now.

        Raises:
            RecordNotFoundError: no such record.
            BufferDamagedError: its bytes do not match their checksum.
        """
        return self._read(key_of(identity))

    def __contains__(self, identity: str) -> bool:
        return key_of(identity) in self._state.rows.slot_of

    def __len__(self) -> int:
        return len(self._state.rows)

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
        """
        blob = self._state.blobs.get(bytes.fromhex(digest))
        if blob is None:
            raise RecordNotFoundError(f"no frame {digest} in {self.directory}.")
        return bytes(self._store.read(blob.address).body[32:])

    def frames(self, identity: str) -> list[bytes]:
        """All frames of an experience, in its order."""
        return [self.frame(digest) for digest in self.get(identity).frames]

    def _read(self, key: bytes) -> Experience:
        for _ in range(5):  # a compaction may move the record between the look-up and the read
            with self._mutex:
                slot = self._state.rows.slot_of.get(key)
                if slot is None:
                    raise _not_found(id_of(key))
                address = int(self._state.rows.address[slot])
            try:
                found = self._store.read(address)
            except (KeyError, BufferDamagedError):
                if self._state.rows.slot_of.get(key) == slot and int(self._state.rows.address[slot]) == address:
                    raise
                continue
            with self._mutex:
                if self._state.rows.slot_of.get(key) == slot and self._state.rows.sequence[slot] == found.sequence:
                    return self._decoded(found, slot)
        raise _not_found(id_of(key))

    def _decoded(self, found: Found, slot: int) -> Experience:
        rows = self._state.rows
        stored = decode(found.body, found.sequence)
        stored.updated_s = float(rows.updated[slot])
        override = float(rows.override[slot])
        stored.priority = None if override != override else override
        stored.confidence, stored.reward = float(rows.confidence[slot]), float(rows.reward[slot])
        stored.retrieval_count, stored.success_count = int(rows.retrieved[slot]), int(rows.succeeded[slot])
        return stored

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
        euclidean = self.config.index.metric == "euclidean"
        if not euclidean:
            query = hybrid(query, None)
        with self._mutex:
            rows = self._state.rows
            slots = rows.live()
            if where is not None:
                slots = slots[where.mask(rows, slots)]
            if k <= 0 or not len(slots):
                return []
            scores = self._state.vectors.scores(query, rows.used, euclidean=euclidean)[slots]
            k = min(k, len(slots))
            best = np.argpartition(-scores, k - 1)[:k]
            best = best[np.argsort(-scores[best], kind="stable")]
            return [self._neighbour(int(slots[i]), float(scores[i])) for i in best]

    def _neighbour(self, slot: int, similarity: float) -> Neighbour:
        rows = self._state.rows
        return Neighbour(
            id_of(rows.key(slot)), int(rows.sequence[slot]), similarity,
            rows.names["label"].texts[rows.label[slot]], rows.names["source"].texts[rows.source[slot]],
            float(rows.confidence[slot]), float(rows.reward[slot]),
        )  # fmt: skip

    def sample(self, n: int, *, replacement: bool = False, beta: float = 0.4, where: Where | None = None) -> Batch:
        """Up to n experiences, drawn in proportion to their priorities.

        Args:
            n: How many; fewer where fewer qualify.
            replacement: Whether one may be drawn twice.
            beta: Exponent of the importance weights (N p)^-beta.
            where: Only records that pass.
        """
        self._ready_to_read()
        with self._mutex:
            slots, weights = self._draw(n, replacement, where)
            if not len(slots):
                return Batch([], np.zeros(0), np.zeros(0))
            keys = [self._state.rows.key(slot) for slot in slots]
            share = weights / self._sampler.total()
            importance = (len(self._state.rows) * share) ** -beta
        kept, experiences = [], []
        for i, key in enumerate(keys):
            try:
                experiences.append(self._read(key))
                kept.append(i)
            except (RecordNotFoundError, BufferDamagedError) as error:
                log.warning("left out of a sample: %s", error)
        importance = importance[kept]
        return Batch(experiences, weights[kept], importance / importance.max(initial=1e-300))

    def _draw(self, n: int, replacement: bool, where: Where | None) -> tuple[np.ndarray, np.ndarray]:
        self._refresh_priorities()
        rows, sampler = self._state.rows, self._sampler
        if where is not None:
            live = rows.live()
            chosen = live[where.mask(rows, live)]
            weights = np.zeros(max(rows.used, 1))
            weights[chosen] = sampler.weights.reshape(-1)[chosen]
            sampler = ProportionalSampler(weights, seed=int(sampler.generator.integers(2**31)))
        if n <= 0 or sampler.total() <= 0:
            return np.zeros(0, np.int64), np.zeros(0)
        slots = sampler.draw(n) if replacement else sampler.draw_distinct(min(n, len(rows)))
        return slots, sampler.weights.reshape(-1)[slots]

    def _priorities(self, slots: np.ndarray) -> np.ndarray:
        rows = self._state.rows
        return priorities(
            self.config.priority, self._clock(), created_s=rows.created[slots], confidence=rows.confidence[slots],
            reward=rows.reward[slots], retrieved=rows.retrieved[slots], succeeded=rows.succeeded[slots],
            override=rows.override[slots],
        )  # fmt: skip

    def _refresh_priorities(self) -> None:
        state, now = self._state, self._clock()
        stale = abs(now - self._sampler_at_s) > self.config.priority.half_life_s / 100
        if stale or state.rows.used > len(self._sampler):
            weights = np.zeros(max(state.rows.used + state.rows.used // 4, 1024))
            live = state.rows.live()
            weights[live] = self._priorities(live)
            self._sampler.resize(weights)
            self._sampler_at_s = now
        elif state.touched:
            slots = np.unique(np.concatenate(state.touched))
            self._sampler.update(slots, np.where(state.rows.alive[slots], self._priorities(slots), 0.0))
        state.touched.clear()

    def _ready_to_read(self) -> None:
        if self._closed:
            raise BufferNotReadyError(f"the buffer {self.directory} is closed.", remedy="Open it again.")

    # --- life

    def stats(self) -> dict[str, Any]:
        """Counts, bytes and state, as plain numbers and strings."""
        with self._mutex:
            rows = self._state.rows
            live = rows.live()
            oldest = float(rows.created[live].min()) if len(live) else None
            return {
                "records": len(rows), "frames": len(self._state.blobs), "sequence": self._state.sequence,
                "live_bytes": self._state.live_bytes, "disk_bytes": self._store.bytes_on_disk(),
                "queue": self._commit.waiting(), "oldest_age_s": None if oldest is None else self._clock() - oldest,
                "state": "closed" if self._closed else "disk full" if self._full else
                         "read-only" if self.read_only else "ready",
                "adapter": self.config.adapter, "dimension": self.config.dimension,
            }  # fmt: skip

    def close(self) -> None:
        """Finish what is being written and give the directory back. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        self._commit.close()
        with self._commit.io:
            self._store.close()
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _recover(self) -> RecoveryReport:
        started = time.perf_counter()
        report = ScanReport()
        entries: list[Found] = []
        blobs = 0
        for found in self._store.scan(report):
            if found.kind == Kind.EXPERIENCE and found.group > blobs:
                report.damages.append(f"experience at {found.address:#x} lacks frames written with it: dropped")
                blobs = 0
                continue
            blobs = blobs + 1 if found.kind == Kind.BLOB else 0
            entries.append(found)
        entries.sort(key=lambda item: item.sequence)
        self._state.apply(entries)
        seconds = time.perf_counter() - started
        for damage in report.damages:
            log.warning("%s: %s", self.directory, damage)
        return RecoveryReport(len(self._state.rows), len(entries), report.dropped_bytes, report.torn_bytes,
                              tuple(report.damages), 0, seconds)  # fmt: skip


def _not_found(identity: str) -> RecordNotFoundError:
    return RecordNotFoundError(f"no experience {identity}: never stored, removed, evicted, expired or erased.")


def _full(directory: Path) -> BufferFullError:
    return BufferFullError(
        f"the disk of {directory} is full: nothing was written; searching and sampling go on.",
        remedy="Free space; appends work again by themselves.",
    )


def new_buffer_id() -> str:
    """Identity of a buffer directory."""
    return uuid.uuid4().hex


__all__ = ["Batch", "ExperienceBuffer", "RecoveryReport", "os"]

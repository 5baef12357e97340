"""What updates, counts and removals put into the log, and how a stored record is read with them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from components.ttrl.buffer.append import append
from components.ttrl.buffer.config import BufferConfig
from components.ttrl.buffer.errors import InvalidExperienceError, MissingFrameError, RecordNotFoundError
from components.ttrl.buffer.identity import id_of, key_of
from components.ttrl.buffer.log.frame import Entry, Found, Kind, entry, frame_size
from components.ttrl.buffer.record import Experience, decode, encode
from components.ttrl.buffer.state import PATCH, REASONS, REMOVE, State
from components.ttrl.buffer.store import Store
from components.ttrl.buffer.writes import Again, Built, Pending, Write

NUMBERS = frozenset({"confidence", "reward", "retrieval_count", "success_count", "priority"})
"""Fields whose update logs only numbers."""
FIXED_FIELDS = frozenset({"id", "sequence", "created_s"})
Redact = Callable[[Experience], Experience]


class Changes:
    """Makes writes.

    Args:
        state: Memory.
        store: For the present version of what an update changes.
        config: Limits.
        clock: Seconds since 1970.
        redact: Called before an experience is encoded.
    """

    def __init__(
        self, state: State, store: Store, config: BufferConfig, clock: Callable[[], float], redact: Redact | None
    ) -> None:
        self.state, self.store, self.config, self.clock, self.redact = state, store, config, clock, redact

    def append(self, experience: Experience, frames: Sequence[bytes]) -> Write:
        """Store an experience."""
        if self.redact is not None:
            experience = self.redact(experience)
        config = self.config
        return append(self.state, experience, frames, dimension=config.dimension,
                      max_record_bytes=config.max_record_bytes)  # fmt: skip

    def _kept(self, digest: bytes, pending: Pending) -> bool:
        return self.state.frames.has(digest) and digest not in pending.released

    def update(self, identity: str, changes: dict[str, Any]) -> Write:
        """Change fields of a record."""
        wrong = (changes.keys() - {*Experience.__slots__}) | (changes.keys() & FIXED_FIELDS)
        if wrong:
            raise InvalidExperienceError(
                f"update of {identity}: {', '.join(sorted(wrong))} cannot be changed; nothing was stored."
            )
        key = _key(identity)

        def build(pending: Pending) -> list[Entry] | int:
            slot = self._present(key, pending)
            if changes.keys() <= NUMBERS:
                pending.changed.add(key)
                return [self.patch(slot, changes)]
            newer = replace(self.decoded(self.store.read(int(self.state.rows.address[slot])), slot), **changes)
            newer.updated_s = self.clock()
            if self.redact is not None:
                newer = self.redact(newer)
            for digest in newer.frames:
                if not self._kept(bytes.fromhex(digest), pending):
                    raise MissingFrameError(f"update of {identity} names frame {digest}, which is not stored.")
            body = encode(newer, self.config.dimension, origin=int(self.state.rows.origin[slot]))
            pending.changed.add(key)
            pending.released.update(self.state.frames.of_slot.get(slot, ()))
            pending.bytes += frame_size(len(body)) - int(self.state.rows.size[slot])
            return [entry(Kind.EXPERIENCE, body)]

        return Built(build, 64)

    def retrievals(self, identities: Iterable[str], success: bool | None) -> Write:
        """Count retrievals; records gone meanwhile are skipped."""
        keys = [_key(identity) for identity in identities]
        gain = int(success is True)

        def build(pending: Pending) -> list[Entry] | int:
            rows, entries = self.state.rows, []
            for key in dict.fromkeys(keys):
                slot = rows.slot_of.get(key)
                if slot is not None and key in pending.changed:
                    if key in pending.removed:
                        continue
                    raise Again
                if slot is not None:
                    times = keys.count(key)
                    counts = {"retrieval_count": int(rows.retrieved[slot]) + times,
                              "success_count": int(rows.succeeded[slot]) + gain * times}  # fmt: skip
                    entries.append(self.patch(slot, counts))
            pending.changed.update(keys)
            return entries

        return Built(build, 128 * len(keys))

    def remove(self, keys: Sequence[bytes], reason: str, *, strict: bool) -> Write:
        """Remove records; `strict` refuses an unknown one."""

        def build(pending: Pending) -> list[Entry] | int:
            slots = [self._present(key, pending) for key in dict.fromkeys(keys)
                     if strict or (key in self.state.rows.slot_of and key not in pending.removed)]  # fmt: skip
            return [self.removal(slot, reason, pending) for slot in slots]

        return Built(build, 64 * len(keys))

    def removal(self, slot: int, reason: str, pending: Pending) -> Entry:
        """The entry that removes a live record."""
        key, holders = self.state.rows.key(slot), self.state.holders(slot)
        pending.changed.add(key)
        pending.removed.add(key)
        pending.released.update(self.state.frames.of_slot.get(slot, ()))
        head = REMOVE.pack(key, int(self.state.rows.sequence[slot]), REASONS.index(reason), len(holders))
        return entry(Kind.REMOVE, head + struct.pack(f"<{len(holders)}q", *holders))

    def patch(self, slot: int, changes: dict[str, Any]) -> Entry:
        """The entry that sets a live record's numbers."""
        rows = self.state.rows
        override = float(rows.override[slot])
        if "priority" in changes:
            override = float("nan") if changes["priority"] is None else float(changes["priority"])
        confidence = float(changes.get("confidence", rows.confidence[slot]))
        reward = float(changes.get("reward", rows.reward[slot]))
        retrieved = int(changes.get("retrieval_count", rows.retrieved[slot]))
        succeeded = int(changes.get("success_count", rows.succeeded[slot]))
        if not (0 <= confidence <= 1 and abs(reward) < 3e38 and not (override < 0 or np.isinf(override))
                and 0 <= succeeded <= retrieved < 2**32):  # fmt: skip
            raise InvalidExperienceError(
                f"update of {id_of(rows.key(slot))} to {changes} is out of range: nothing was stored."
            )
        body = PATCH.pack(rows.key(slot), self.clock(), override, confidence, reward, retrieved, succeeded,
                          int(rows.sequence[slot]))  # fmt: skip
        return entry(Kind.PATCH, body)

    def decoded(self, found: Found, slot: int) -> Experience:
        """The experience in a slot: its stored body with the numbers changed since."""
        rows = self.state.rows
        stored = decode(found.body, found.sequence)
        override = float(rows.override[slot])
        stored.updated_s = float(rows.updated[slot])
        stored.priority = None if np.isnan(override) else override
        stored.confidence, stored.reward = float(rows.confidence[slot]), float(rows.reward[slot])
        stored.retrieval_count, stored.success_count = int(rows.retrieved[slot]), int(rows.succeeded[slot])
        return stored

    def _present(self, key: bytes, pending: Pending) -> int:
        slot = self.state.rows.slot_of.get(key)
        if slot is None or key in pending.removed:
            raise not_found(key)
        if key in pending.changed:
            raise Again
        return slot


def _key(identity: str) -> bytes:
    try:
        return key_of(identity)
    except ValueError as error:
        raise RecordNotFoundError(f"{identity!r} is not an experience id (a UUID).") from error


def not_found(key: bytes) -> RecordNotFoundError:
    """The error for an id without a live record."""
    return RecordNotFoundError(f"no experience {id_of(key)}: never stored, removed, evicted, expired or erased.")

"""Storing an experience: encoded and checked before it queues, compared with memory when its batch is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from crc32c import crc32c

from components.ttrl.buffer.errors import DuplicateIdError, InvalidExperienceError, MissingFrameError
from components.ttrl.buffer.identity import id_of
from components.ttrl.buffer.log.frame import Entry, Kind, entry, frame_size
from components.ttrl.buffer.record import Experience, digest_of, encode
from components.ttrl.buffer.state import State
from components.ttrl.buffer.writes import Again, Pending, Write

NOTHING: Mapping[bytes, bytes] = {}
EXPERIENCE = int(Kind.EXPERIENCE)
_new_entry = tuple.__new__  # in a third of the time a NamedTuple's own constructor takes


class Append(Write):
    """One experience and those of its frames that come with it.

    Args:
        state: Memory.
        record: The encoded experience.
        size: Bytes of it and the frames.
        wanted: Digests of its frames.
        given: Frames handed in, by digest.
    """

    def __init__(
        self, state: State, record: Entry, size: int, wanted: Sequence[bytes], given: Mapping[bytes, bytes]
    ) -> None:
        self.state, self.record, self.size, self.wanted, self.given = state, record, size, wanted, given

    def build(self, pending: Pending) -> list[Entry] | int:
        """See `Write.build`."""
        record = self.record
        key = record.body[:16]
        if key in pending.appended or key in pending.changed:
            raise Again
        slot = self.state.slot_of.get(key)
        if slot is not None:
            return self._stored(key, slot)
        entries = self._with_frames(key, pending) if self.wanted else [record]
        pending.appended.add(key)
        pending.bytes += frame_size(self.size)
        return entries

    def _stored(self, key: bytes, slot: int) -> int:
        """Sequence number of the same record, stored before."""
        rows = self.state.rows
        if int(rows.origin[slot]) != self.record.body_crc:
            raise DuplicateIdError(
                f"id {id_of(key)} is taken by a record with other content: nothing was stored.",
                remedy="Give every experience its own id (the default), or use update().",
            )
        return int(rows.sequence[slot])

    def _with_frames(self, key: bytes, pending: Pending) -> list[Entry]:
        """The record behind those of its frames that are not stored."""
        fresh = self._fresh(key, pending)
        pending.blobs.update(fresh)
        blobs = [entry(Kind.BLOB, digest + self.given[digest]) for digest in fresh]
        return [*blobs, self.record._replace(group=len(fresh))]

    def _fresh(self, key: bytes, pending: Pending) -> list[bytes]:
        """Frames to write with the record."""
        frames = self.state.frames
        absent = [
            digest for digest in self.wanted
            if digest not in pending.blobs and (digest in pending.released or not frames.has(digest))
        ]  # fmt: skip
        missing = [digest for digest in absent if digest not in self.given]
        if missing:
            raise MissingFrameError(
                f"experience {id_of(key)} names frame {missing[0].hex()}, which is neither handed in nor stored"
                f" ({len(missing)} missing): it was not stored.",
                remedy="Pass the frames' bytes to append().",
            )
        return absent


def append(
    state: State, experience: Experience, frames: Sequence[bytes], *, dimension: int, max_record_bytes: int
) -> Append:
    """The write of an experience; everything that can be refused without memory is refused here.

    Args:
        state: Memory.
        experience: What to store.
        frames: Their digests are added behind `experience.frames`.
        dimension: The buffer's embedding width.
        max_record_bytes: Largest size, frames included.

    Raises:
        InvalidExperienceError: it would not be stored as given, or is too large.
    """
    given: Mapping[bytes, bytes] = NOTHING
    size = 0
    if frames:
        digests = [digest_of(frame) for frame in frames]
        given = {bytes.fromhex(digest): frame for digest, frame in zip(digests, frames)}
        experience = replace(experience, frames=(*experience.frames, *digests))
        size = sum(map(len, frames))
    body = encode(experience, dimension)
    size += len(body)
    if size > max_record_bytes:
        raise InvalidExperienceError(
            f"experience {experience.id} takes {size} bytes, the limit is {max_record_bytes}: it was not stored.",
            remedy="Store fewer or smaller frames, or raise buffer.max_record_bytes.",
        )
    wanted = [bytes.fromhex(digest) for digest in dict.fromkeys(experience.frames)] if experience.frames else ()
    return Append(state, _new_entry(Entry, (EXPERIENCE, body, crc32c(body), 0)), size, wanted, given)

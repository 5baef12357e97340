"""An experience and its binary form (version 1).

    offset  type       field
    0       u8[16]     id (UUID)
    16      f64        created_s (seconds since 1970)
    24      f64        updated_s
    32      f64        priority override (NaN: computed)
    40      f32        confidence
    44      f32        reward
    48      u32        retrieval_count
    52      u32        success_count
    56      u32        CRC32C of the body first appended under this id (0 in that body itself)
    60      u32        dimension
    64      u8         record version = 1
    65      u8         flags: 1 visual, 2 text
    66      u16        number of frames
    68      u32        bytes of the second msgpack part
    72      u16        bytes of the first msgpack part
    74      u16        0
    76      f32[dim]   visual embedding, if flagged
            f32[dim]   text embedding, if flagged
            u8[32]*n   SHA-256 of each frame
            msgpack    [source, subject, label]: what recovery needs, apart so that it need not decode the rest
            msgpack    [question, trace_id, trajectory, votes, rewards, attributes]

Little endian. Vectors start at a fixed offset so that recovery gathers them without decoding. No pickle: a record can
hold what msgpack can (None, bool, int, float, str, bytes, list, map) and nothing else.
"""

from __future__ import annotations

import hashlib
import math
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgpack
import numpy as np

from components.ttrl.buffer.errors import BufferFormatError, InvalidExperienceError
from components.ttrl.buffer.identity import id_of, key_of, new_id

VERSION = 1
FIXED = struct.Struct("<16sdddffIIIIBBHIHH")
FIXED_ROW = np.dtype(
    [
        ("key", "u1", 16), ("created", "<f8"), ("updated", "<f8"), ("override", "<f8"), ("confidence", "<f4"),
        ("reward", "<f4"), ("retrieved", "<u4"), ("succeeded", "<u4"), ("origin", "<u4"), ("dimension", "<u4"),
        ("version", "u1"), ("flags", "u1"), ("frames", "<u2"), ("meta", "<u4"), ("tagged", "<u2"), ("spare", "<u2"),
    ]
)  # fmt: skip
"""The same as numpy reads it."""
assert FIXED_ROW.itemsize == FIXED.size
PEEK, PEEK_AT = struct.Struct("<BH"), 65
"""Flags and number of frames, at their offset."""
VISUAL, TEXT = 1, 2
_F4 = np.dtype("<f4")
_nan = math.nan
_local = threading.local()


@dataclass(slots=True, kw_only=True, eq=False)
class Experience:
    """One answered question. The buffer never changes an object handed to it.

    `reward` is the total of `rewards`; `visual` and `text` are float32 of the buffer's dimension, at least one given.
    """

    question: str
    visual: np.ndarray | None = None
    text: np.ndarray | None = None
    id: str = field(default_factory=new_id)
    sequence: int = 0
    trace_id: str = ""
    source: str = ""
    subject: str = ""
    label: str = ""
    created_s: float = field(default_factory=time.time)
    updated_s: float = 0.0
    trajectory: Sequence[Mapping[str, Any]] = ()
    votes: Mapping[str, float] = field(default_factory=dict)
    confidence: float = 0.0
    reward: float = 0.0
    rewards: Mapping[str, float] = field(default_factory=dict)
    frames: Sequence[str] = ()
    retrieval_count: int = 0
    success_count: int = 0
    priority: float | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def success_rate(self) -> float:
        """Share of retrievals that helped; 0 before the first."""
        return self.success_count / self.retrieval_count if self.retrieval_count else 0.0


def digest_of(frame: bytes) -> str:
    """The name of a frame: hex SHA-256 of its bytes."""
    return hashlib.sha256(frame).hexdigest()


def encode(experience: Experience, dimension: int, *, origin: int = 0) -> bytes:
    """The body of an experience's log record.

    Args:
        experience: What to store.
        dimension: The buffer's embedding width.
        origin: CRC32C of the body first appended under this id, for a later version of it.

    Raises:
        InvalidExperienceError: the record would not be stored as given; names the field and the value.
    """
    e = experience
    flags, vectors, digests, frames = 0, b"", b"", e.frames
    if e.visual is not None:
        flags = VISUAL
        vectors = vector_bytes(e.visual, dimension, "visual")
    if e.text is not None:
        flags |= TEXT
        vectors += vector_bytes(e.text, dimension, "text")
    if not flags:
        raise InvalidExperienceError(
            f"experience {e.id} has neither a visual nor a text embedding: it could never be found.",
            remedy="Embed the clip or the question first.",
        )
    if frames:
        try:
            digests = b"".join([bytes.fromhex(digest) for digest in frames])
        except ValueError as error:
            raise InvalidExperienceError(f"experience {e.id}: frame digest is not hex ({error}).") from error
    _check_numbers(e)
    try:
        tags = _pack_tags(e.source, e.subject, e.label)
        meta = _pack((e.question, e.trace_id, e.trajectory, e.votes, e.rewards, e.attributes))
        fixed = FIXED.pack(
            key_of(e.id), e.created_s, e.updated_s, _nan if e.priority is None else e.priority, e.confidence, e.reward,
            e.retrieval_count, e.success_count, origin, dimension, VERSION, flags, len(frames), len(meta), len(tags), 0,
        )  # fmt: skip
    except (TypeError, ValueError, OverflowError, struct.error) as error:
        raise InvalidExperienceError(
            f"experience {e.id} cannot be encoded: {error}; it was not stored.",
            remedy="Use a UUID as id, numbers in range, and only None, bool, int, float, str, bytes, list and map.",
        ) from error
    return b"".join((fixed, vectors, digests, tags, meta))


@lru_cache(256)  # the same three come again and again
def _pack_tags(source: str, subject: str, label: str) -> bytes:
    return _pack((source, subject, label))


def _pack(content: tuple[Any, ...]) -> bytes:
    """By this thread's packer (making one costs as much as packing a small record)."""
    try:
        pack = _local.pack
    except AttributeError:
        pack = _local.pack = msgpack.Packer(use_bin_type=True).pack
    packed: bytes = pack(content)
    return packed


def _check_numbers(e: Experience) -> None:
    if not math.isfinite(e.created_s + e.updated_s + e.confidence + e.reward + (e.priority or 0.0)):
        raise InvalidExperienceError(
            f"experience {e.id}: confidence {e.confidence}, reward {e.reward}, priority {e.priority} or a time is not"
            " finite; it was not stored."
        )
    if not 0.0 <= e.confidence <= 1.0:
        raise InvalidExperienceError(f"experience {e.id}: confidence {e.confidence} is not between 0 and 1.")
    if (e.priority or 0.0) < 0.0:
        raise InvalidExperienceError(f"experience {e.id}: priority {e.priority} is negative.")
    if e.success_count > e.retrieval_count:
        raise InvalidExperienceError(
            f"experience {e.id}: success_count {e.success_count} exceeds retrieval_count {e.retrieval_count}."
        )


def vector_bytes(vector: Any, dimension: int, name: str) -> bytes:
    """A finite (dimension,) float32 vector's bytes.

    Raises:
        InvalidExperienceError: wrong shape, not numbers, or not finite.
    """
    try:
        array = np.asarray(vector, dtype=_F4)
    except (TypeError, ValueError) as error:
        raise InvalidExperienceError(f"{name} embedding is not a vector of numbers ({error}).") from error
    if array.shape != (dimension,):
        raise InvalidExperienceError(
            f"{name} embedding has shape {array.shape}, the buffer holds ({dimension},): the record was not stored.",
            remedy="Embed with the model this buffer was made for, or open a buffer of that dimension.",
        )
    if not math.isfinite(array.dot(array)) and not np.isfinite(array).all():
        raise InvalidExperienceError(f"{name} embedding holds NaN or infinity: the record was not stored.")
    return array.tobytes()


def decode(body: bytes | memoryview, sequence: int) -> Experience:
    """The experience in a log record's body.

    Raises:
        BufferFormatError: a record version this code does not know.
    """
    (
        key,
        created,
        updated,
        priority,
        confidence,
        reward,
        retrieved,
        succeeded,
        _,
        dim,
        version,
        flags,
        frames,
        length,
        tagged,
        _,
    ) = FIXED.unpack_from(body)
    if version != VERSION:
        raise BufferFormatError(f"record {sequence} has version {version}, this code reads {VERSION}.",
                                remedy="Open the buffer with the release that wrote it.")  # fmt: skip
    offset, vectors = FIXED.size, []
    for flag in (VISUAL, TEXT):
        present = flags & flag
        vectors.append(np.frombuffer(body, "<f4", dim, offset).copy() if present else None)
        offset += 4 * dim if present else 0
    digests = tuple(bytes(body[offset + 32 * i : offset + 32 * (i + 1)]).hex() for i in range(frames))
    offset += 32 * frames
    source, subject, label = msgpack.unpackb(body[offset : offset + tagged])
    meta = msgpack.unpackb(body[offset + tagged : offset + tagged + length], strict_map_key=False)
    question, trace_id, trajectory, votes, rewards, attributes = meta
    return Experience(
        question=question, visual=vectors[0], text=vectors[1], id=id_of(key), sequence=sequence, trace_id=trace_id,
        source=source, subject=subject, label=label, created_s=created, updated_s=updated, trajectory=trajectory,
        votes=votes, confidence=confidence, reward=reward, rewards=rewards, frames=digests, retrieval_count=retrieved,
        success_count=succeeded, priority=None if math.isnan(priority) else priority, attributes=attributes,
    )  # fmt: skip

"""What the buffer refuses or cannot do; every class is a `PixelisError` and names the remedy."""

from __future__ import annotations

from components.shared.runtime.errors import PixelisError


class ExperienceBufferError(PixelisError, RuntimeError):
    """Base of every failure of the experience buffer; the service answers from the model alone and says so."""

    exit_code = 8


class BufferNotReadyError(ExperienceBufferError):
    """Closed, opened read-only, or writes are refused for now; nothing was written by the call that raised it."""


class BufferFullError(BufferNotReadyError):
    """The disk is full: the buffer reads and searches, and takes records again as soon as there is space."""


class BufferWriteError(ExperienceBufferError):
    """The device refused the write; the record is not stored and the log stays usable."""


class BufferLockedError(BufferNotReadyError):
    """Another process owns the directory."""


class BufferFormatError(ExperienceBufferError):
    """Not a buffer, a buffer of another format or shape, or one whose segments are not all there."""


class SegmentsMissingError(BufferFormatError):
    """Segments that should be there are not."""


class BufferDamagedError(ExperienceBufferError):
    """Bytes that do not match their checksum; the rest of the buffer stays readable."""


class InvalidExperienceError(ExperienceBufferError, ValueError):
    """An experience refused before a byte was written: wrong dimension, not finite, too large, unknown version."""


class DuplicateIdError(InvalidExperienceError):
    """The id is taken by a record with other content (the same content again is stored once and acknowledged)."""


class MissingFrameError(InvalidExperienceError):
    """A frame digest that is neither handed in nor stored."""


class RecordNotFoundError(ExperienceBufferError, KeyError):
    """No live record has that id: never appended, removed, evicted, expired or erased."""

    __str__ = PixelisError.__str__

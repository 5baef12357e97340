"""The experience buffer: nothing acknowledged is ever lost, everything acknowledged is found."""

from components.ttrl.buffer.buffer import ExperienceBuffer
from components.ttrl.buffer.config import BufferConfig, IndexConfig, PriorityConfig
from components.ttrl.buffer.errors import (
    BufferDamagedError,
    BufferFormatError,
    BufferFullError,
    BufferLockedError,
    BufferNotReadyError,
    BufferWriteError,
    DuplicateIdError,
    ExperienceBufferError,
    InvalidExperienceError,
    MissingFrameError,
    RecordNotFoundError,
)
from components.ttrl.buffer.query import Neighbour, Where
from components.ttrl.buffer.record import Experience, digest_of
from components.ttrl.buffer.recovery import RecoveryReport
from components.ttrl.buffer.selection import Batch
from components.ttrl.buffer.vectors import hybrid

__all__ = [
    "Batch", "BufferConfig", "BufferDamagedError", "BufferFormatError", "BufferFullError", "BufferLockedError",
    "BufferNotReadyError", "BufferWriteError", "DuplicateIdError", "Experience", "ExperienceBuffer",
    "ExperienceBufferError", "IndexConfig", "InvalidExperienceError", "MissingFrameError", "Neighbour",
    "PriorityConfig", "RecordNotFoundError", "RecoveryReport", "Where", "digest_of", "hybrid",
]  # fmt: skip

"""The experience buffer: nothing acknowledged is ever lost, everything acknowledged is found.

    buffer       the public face: one object that owns a directory
    record       an experience and its bytes            log/        segments and frames on disk (format: its docstring)
    append, changes, writes   what becomes log entries  store       bytes by address: `store_file` (the log), `store_lmdb`
    commit, turns, journal    group commit              snapshot, checkpoint, recovery   opening without a replay
    state, rows, vectors, frames   memory               maintenance, compaction, privacy   what goes on behind
    search, index/   nearest neighbours                 priority, sampling, selection, eviction   who is drawn, who leaves
    reading      back from disk                         tools/      `pixelis buffer ...`
"""

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

"""The experience buffer: nothing acknowledged is ever lost, everything acknowledged is found.

buffer                              the public face: one object that owns a directory
record, log/                        an experience's bytes; segments and frames on disk (format: log's docstring)
store, store_file, store_lmdb       bytes by address: the interface, the log, LMDB
append, changes, writes             what becomes log entries
commit, front, journal              group commit
state, arrivals, rows, vectors, frames   memory, and how a log entry changes it
snapshot, checkpoint, recovery      opening without replaying everything
reading                             records and frames back from disk
search, index/                      nearest neighbours
priority, sampling, selection       who is drawn
eviction, maintenance, compaction, privacy   who leaves, and what is rewritten behind
tools/                              `pixelis buffer ...`
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

"""UUIDv7 ids (RFC 9562): sortable by time, unique within and across processes, monotonic in one process.

A clock that jumps backwards does not: the last millisecond is kept and the 12-bit counter field goes on from it.
"""

from __future__ import annotations

import os
import threading
import time
import uuid

_lock = threading.Lock()
_last = 0  # milliseconds << 12 | counter


def new_id() -> str:
    """A fresh id, larger than every id this process minted before."""
    global _last  # noqa: PLW0603
    tick = (time.time_ns() // 1_000_000) << 12
    with _lock:
        _last = tick if tick > _last else _last + 1
        tick = _last
    tail = int.from_bytes(os.urandom(8), "big") & 0x3FFF_FFFF_FFFF_FFFF
    value = (tick >> 12) << 80 | 0x7 << 76 | (tick & 0xFFF) << 64 | 0x2 << 62 | tail
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def key_of(identity: str) -> bytes:
    """The 16 bytes under which a record is kept.

    Raises:
        ValueError: not a UUID.
    """
    if len(identity) == 36:
        digits = identity.replace("-", "")
        if len(digits) == 32:
            key = bytes.fromhex(digits)
            if len(key) == 16:  # it skips blanks
                return key
    return uuid.UUID(identity).bytes


def id_of(key: bytes) -> str:
    """The id of 16 key bytes, in canonical form."""
    text = key.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

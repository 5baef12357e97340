"""Frame headers and the fixed part of experiences as numpy structures, gathered from a mapped segment.

Slices of a memoryview, joined, are several times faster here than numpy's fancy indexing of a mapping.
"""

from __future__ import annotations

import numpy as np

from components.ttrl.buffer.log.frame import HEADER
from components.ttrl.buffer.record import FIXED_ROW

HEAD = np.dtype(
    [
        ("magic", "<u4"), ("header_crc", "<u4"), ("kind", "u1"), ("frame_version", "u1"), ("group", "<u2"),
        ("length", "<u4"), ("sequence", "<u8"), ("body_crc", "<u4"), ("reserved", "<u4"), ("record", FIXED_ROW),
    ]
)  # fmt: skip
assert HEAD.itemsize == HEADER.size + FIXED_ROW.itemsize


def gather(segment: memoryview, offsets: list[int], dimension: int, *, skip: int = 0) -> np.ndarray:
    """(n,) structures of `head` (a HEAD's bytes) and `vector` (dimension,) of the experience frames at the offsets.

    Args:
        segment: The mapped segment.
        offsets: Of frames.
        dimension: Width of a vector.
        skip: Vectors to leave out: with 1, `vector` is the second one and `head` is meaningless.
    """
    frame = np.dtype([("head", f"V{HEAD.itemsize}"), ("vector", "<f4", (dimension,))])
    size, ahead = frame.itemsize, 4 * dimension * skip
    return np.frombuffer(b"".join([segment[o + ahead : o + ahead + size] for o in offsets]), frame)

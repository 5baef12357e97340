"""Frame headers and the fixed part of experiences as numpy structures, gathered from a mapped segment.

Slices of a memoryview, joined or assigned, are several times faster here than numpy's fancy indexing of a mapping.
"""

from __future__ import annotations

import numpy as np

from components.ttrl.buffer.log.frame import HEADER
from components.ttrl.buffer.record import FIXED

HEAD = np.dtype(
    [
        ("magic", "<u4"), ("header_crc", "<u4"), ("kind", "u1"), ("frame_version", "u1"), ("group", "<u2"),
        ("length", "<u4"), ("sequence", "<u8"), ("body_crc", "<u4"), ("reserved", "<u4"), ("key", "u1", 16),
        ("created", "<f8"), ("updated", "<f8"), ("override", "<f8"), ("confidence", "<f4"), ("reward", "<f4"),
        ("retrieved", "<u4"), ("succeeded", "<u4"), ("origin", "<u4"), ("dimension", "<u4"), ("version", "u1"),
        ("flags", "u1"), ("frames", "<u2"), ("meta", "<u4"), ("tagged", "<u2"), ("spare", "<u2"),
    ]
)  # fmt: skip
assert HEAD.itemsize == HEADER.size + FIXED.size


def gather_heads(segment: memoryview, offsets: list[int]) -> np.ndarray:
    """(n,) HEAD of the experience frames at the offsets."""
    return np.frombuffer(b"".join([segment[o : o + HEAD.itemsize] for o in offsets]), HEAD)


def gather_vectors(segment: memoryview, offsets: list[int], dimension: int, which: int, out: np.ndarray) -> None:
    """Fill out (n, dimension) float32 with the `which`-th vector of the experience frames at the offsets."""
    width = 4 * dimension
    skip, place, target = HEAD.itemsize + which * width, 0, memoryview(out.data).cast("B")
    for offset in offsets:
        target[place : place + width] = segment[offset + skip : offset + skip + width]
        place += width

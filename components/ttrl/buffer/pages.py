"""Memory for many vectors that are about to be filled at once, in pages the machine can give quickly.

In huge pages an exact scan takes two thirds of the time, and on most machines touching one for the first time takes
30 us. A virtual machine whose host takes unused memory back gets it back page by page: then it takes 4 ms, 0.7 s for
the vectors of 100,000 records, which alone is more than the rest of opening them. Small pages usually come from
pieces of memory the host has left. So one page is touched and timed; where that was slow, small pages are filled, and
the kernel is asked to join them into huge ones afterwards, at its leisure.
"""

from __future__ import annotations

import mmap
import time

import numpy as np

HUGE = 2 << 20
LINE = 64
"""Bytes of a cache line: a row that begins in the middle of one makes every other load of a scan touch two."""
SLOW_S = 0.001
"""The first touch of a huge page takes longer only where a host has to find the memory."""


def aligned(rows: int, width: int) -> np.ndarray:
    """(rows, width) float32 zeros that begin with a cache line; their memory is given when it is touched."""
    room = np.zeros(rows * width + LINE // 4, np.float32)
    start = -room.ctypes.data % LINE // 4
    return room[start : start + rows * width].reshape(rows, width)


class Pages:
    """Makes arrays of zeros to be filled now."""

    def __init__(self) -> None:
        self.slow = False
        """The machine was seen to give huge pages slowly."""
        self._small: list[mmap.mmap] = []

    def zeros(self, rows: int, width: int) -> np.ndarray:
        """(rows, width) float32."""
        size = 4 * rows * width
        if not hasattr(mmap, "MADV_NOHUGEPAGE") or size < 2 * HUGE:
            return aligned(rows, width)
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        array = np.frombuffer(memory, np.float32).reshape(rows, width)
        if not self.slow:
            _advise(memory, mmap.MADV_HUGEPAGE)
            first = -array.ctypes.data % HUGE // 4
            started = time.perf_counter()
            array.reshape(-1)[first] = 0.0
            self.slow = time.perf_counter() - started > SLOW_S
        if self.slow:
            _advise(memory, mmap.MADV_NOHUGEPAGE)
            self._small.append(memory)
        return array

    def filled(self) -> None:
        """All arrays are filled: let the kernel join their pages."""
        for memory in self._small:
            _advise(memory, mmap.MADV_HUGEPAGE)
        self._small.clear()


def _advise(memory: mmap.mmap, advice: int) -> None:
    try:
        memory.madvise(advice)
    except OSError:  # a kernel without huge pages: all are small
        return

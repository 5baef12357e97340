"""Memory backed before it is needed: in a virtual machine the first touch of two megabytes can take ten milliseconds,
which a commit should not wait for."""

from __future__ import annotations

import _thread
import ctypes
import mmap
from collections.abc import Sequence

import numpy as np

POPULATE_WRITE = 23
"""Linux's MADV_POPULATE_WRITE, which mmap does not name."""
CHUNK_BYTES = 2 << 20
"""Backed at a time: meanwhile no other thread can map memory."""
LEAST_BYTES = 2 << 20
"""Less is not worth a thread."""


def back(arrays: Sequence[np.ndarray]) -> None:
    """Have the system back the whole pages of C-contiguous arrays, from a thread; their content stays as it is.

    Others may read and write them meanwhile. Where the system cannot (Linux before 5.14), nothing happens.
    """
    if sum(array.nbytes for array in arrays) >= LEAST_BYTES:
        _thread.start_new_thread(_populate, (arrays,))  # not `threading`, whose start waits for the new thread to run


def _populate(arrays: Sequence[np.ndarray]) -> None:
    madvise = getattr(ctypes.CDLL(None), "madvise", None)  # through ctypes, which lets go of the interpreter
    if madvise is None:
        return
    for array in arrays:
        start = -(-array.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
        stop = (array.ctypes.data + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        for address in range(start, stop, CHUNK_BYTES):
            madvise(ctypes.c_void_p(address), ctypes.c_size_t(min(CHUNK_BYTES, stop - address)), POPULATE_WRITE)

"""Memory that is about to be filled, given by the kernel before a commit has to wait for it.

The first touch of a huge page clears 2 MB; in a virtual machine whose host takes unused memory back it takes 4 ms and
more. A thread asks for the next pages (MADV_POPULATE_WRITE, Linux 5.14), without the interpreter, one at a time
because the kernel lets nobody map memory meanwhile. Elsewhere nothing is done.
"""

from __future__ import annotations

import _thread
import ctypes
import sys

import numpy as np

PAGE = 2 << 20
MADV_POPULATE_WRITE = 23
_madvise = ctypes.CDLL(None).madvise if sys.platform == "linux" else None


def populate(array: np.ndarray) -> None:
    """Have the memory of a contiguous array backed soon; what it holds stays as it is."""
    if _madvise is not None and array.nbytes:
        _thread.start_new_thread(_populate, (array,))


def _populate(array: np.ndarray) -> None:
    assert _madvise is not None
    start = array.ctypes.data // 4096 * 4096
    stop = array.ctypes.data + array.nbytes
    while start < stop:
        end = min(stop, (start // PAGE + 1) * PAGE)
        if _madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_POPULATE_WRITE) != 0:
            return  # an older kernel
        start = end

"""Peak memory of a process and its children, sampled; and giving back what is free in it."""

from __future__ import annotations

import ctypes
import threading
from types import TracebackType

import psutil


class PeakMemory:
    """Samples the resident size of this process, and of all its descendants, every `period_s` seconds.

    Pages shared between processes count once per process, so the figure is an upper bound for forked workers. Without
    `children` a sample costs microseconds and can be taken often.
    """

    def __init__(self, period_s: float = 0.5, *, children: bool = True) -> None:
        self.period_s, self.children, self.peak_bytes = period_s, children, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="peak-memory")

    def __enter__(self) -> PeakMemory:
        self.sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sample()
        self._stop.set()

    def sample(self) -> None:
        """Take one sample now."""
        me = psutil.Process()
        total = 0
        for process in (me, *(me.children(recursive=True) if self.children else ())):
            try:
                total += process.memory_info().rss
            except psutil.Error:  # a child that ended between listing and asking
                continue
        self.peak_bytes = max(self.peak_bytes, total)

    def _watch(self) -> None:
        while not self._stop.wait(self.period_s):
            self.sample()


def give_back() -> bool:
    """Return the heap's free pages to the system; whether this C library can (glibc can, in some milliseconds).

    Where many arrays are kept while others come and go, free space lies between those that stay, and glibc returns none
    of it by itself; how much it is varies between runs of the same code. Not for a training loop, which would fetch its
    pages again at every step.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)
    return True

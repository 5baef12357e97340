"""Memory: peaks of a process and its children, sampled; of an accelerator; giving back what is free; a clear end."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from types import TracebackType

import psutil

from components.shared.runtime.errors import EnvironmentFault


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


def device_peak(device: str) -> dict[str, float]:
    """Peak memory of the accelerator in bytes, empty for the CPU."""
    if not device.startswith("cuda"):
        return {}
    import torch

    return {"peak_device_bytes": float(torch.cuda.max_memory_allocated(device))}


@contextlib.contextmanager
def enough_device_memory(remedy: str) -> Iterator[None]:
    """Says what to change where an accelerator's memory is not enough; also a decorator.

    Args:
        remedy: Names the step's keys that need less.

    Raises:
        EnvironmentFault: torch could not allocate.
    """
    try:
        yield
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's own; not imported for its name alone
            raise
        said = str(error).split(" If reserved")[0].removeprefix("CUDA out of memory. ")
        raise EnvironmentFault(
            f"the accelerator's memory is not enough, and the step ends; checkpoints are kept ({said})", remedy=remedy
        ) from error

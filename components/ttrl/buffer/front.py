"""The queue of one event loop, whose coroutines wait for flushes.

What comes is collected until one tick after the previous batch was acknowledged, so that every writer woken by it can
join the next: all of them share each flush.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.ttrl.buffer.commit import Change, GroupCommit


class LoopFront:
    """See the module. Everything is called in the loop, but `commit` takes from the queue in its thread.

    Args:
        commit: Writes.
        loop: The event loop.
    """

    def __init__(self, commit: GroupCommit, loop: asyncio.AbstractEventLoop) -> None:
        self.commit, self.loop = weakref.proxy(commit), weakref.ref(loop)
        self.queue: list[Change] = []
        self.busy = False
        """A batch is being written, or `start` is about to run."""

    def start(self) -> None:
        """Write what is queued, or have it written; with nothing there, rest."""
        if not self.queue:
            self.busy = False
        elif not self.commit.write_here(self):
            self.commit.order(self)

    def acknowledge(self, batch: list[Change]) -> None:
        """Wake the writers of a batch, and start anew when they have had a tick to come back."""
        self.commit.latency.extend([change.started_s for change in batch], time.perf_counter())
        for change in batch:
            future = change.future
            if future.done():  # cancelled
                continue
            if change.error is None:
                future.set_result(change.result)
            else:
                future.set_exception(change.error)
        loop = self.loop()
        if loop is not None:
            loop.call_soon(self.start)

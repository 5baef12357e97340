"""Whose turn it is: the queue of one event loop, whose coroutines wait for flushes.

A loop's changes are collected for one tick after the previous flush was acknowledged, so that every writer woken by it
can join the next. On a fast device that leaves the device idle while the writers come back (the turnaround), and the
processor while the device works: where a commit takes less than two turnarounds, two halves take turns, one
written while the other comes back. On a slower device two commits of half the size would cost more than that gains.
"""

from __future__ import annotations

import asyncio
import sys
import time
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.ttrl.buffer.commit import Change, GroupCommit

SPLIT_FROM = 4
"""Waiting writers from which two halves take turns."""
SMOOTHING = 0.1
"""Weight of the newest measurement of a commit or a turnaround."""


class LoopFront:
    """See the module.

    Args:
        commit: Writes.
        loop: The event loop; all methods but `rests_after` are called in it.
    """

    def __init__(self, commit: GroupCommit, loop: asyncio.AbstractEventLoop) -> None:
        self.commit, self.loop = weakref.proxy(commit), weakref.ref(loop)
        self.queue: list[Change] = []
        self.busy = False
        self.share = sys.maxsize
        """How many changes the next batch may take."""
        self._turnaround_s = 0.0
        self._commit_s = 0.0
        self._acknowledged_s = 0.0

    def start(self) -> None:
        """Hand over what is queued; with nothing there, rest."""
        if not self.queue:
            self.busy, self._acknowledged_s = False, 0.0
            return
        if self._acknowledged_s:
            self._turnaround_s += SMOOTHING * (time.perf_counter() - self._acknowledged_s - self._turnaround_s)
        waiting = len(self.queue)
        self.share = waiting // 2 if self._alternates() and waiting >= SPLIT_FROM else sys.maxsize
        self.commit.order(self)

    def rests_after(self, seconds: float) -> bool:
        """Told by the writing thread how long a commit took; whether the next one is to wait for its writers."""
        self._commit_s += SMOOTHING * (seconds - self._commit_s)
        self.share = sys.maxsize
        if self.queue and self._alternates():
            return False
        self._acknowledged_s = time.perf_counter()
        return True

    def acknowledge(self, batch: list[Change], resting: bool) -> None:
        """Wake the writers of a batch; where nothing is being written, start when they have had a tick to come back."""
        now, latency = time.perf_counter(), self.commit.latency
        for change in batch:
            latency.add(now - change.started_s)
            if not change.future.done():
                if change.error is not None:
                    change.future.set_exception(change.error)
                else:
                    change.future.set_result(change.result)
        loop = self.loop()
        if resting and loop is not None:
            loop.call_soon(self.start)

    def _alternates(self) -> bool:
        return self._commit_s < 2.0 * self._turnaround_s

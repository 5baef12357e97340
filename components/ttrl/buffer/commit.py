"""Group commit: whoever waits joins the next flush; one flush at a time.

Threads: the first waiter becomes leader, takes all that is queued and writes it; with nobody else waiting that is a
direct write. Coroutines queue at their loop (front.py), which writes for them while commits usually take less than
`BRIEF_S`: handing a batch to a thread and being told of its end takes as long as a fast device's flush, and waits twice
for the interpreter. Whatever may take longer (a device that was slow, much data, a log somebody else holds, an
eviction) goes to one thread that writes for all loops. So a loop stands still for a fraction of a millisecond a batch,
and once for longer when a fast device stalls.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from components.ttrl.buffer.front import LoopFront
from components.ttrl.buffer.metrics import Latencies

log = logging.getLogger(__name__)
BRIEF_S = 0.002
"""A loop writes itself while commits usually take less than this."""
BRIEF_BYTES = 256 << 10
"""Larger batches are the thread's."""
STEP = 1.1
"""By this factor one commit moves what they are said to take."""
STALL_S = 0.01
"""One that takes longer sends the next ones to the thread, whatever is usual."""


class Change:
    """Something to be made durable. Subclasses say what; the writer sets `result` or `error`."""

    size = 0
    done = False
    result: Any = None
    error: BaseException | None = None
    started_s: float
    """When it was handed over."""
    future: asyncio.Future[Any]


class GroupCommit:
    """Hands batches of changes to `write`, never two at once.

    Args:
        write: Makes a batch durable and sets every change's `result` or `error`; must not raise.
        max_batch_bytes: A batch ends when its changes' sizes exceed this.
        brief: Asked before a loop writes so many changes of so many bytes itself: whether only the flush takes time.
    """

    def __init__(
        self, write: Callable[[list[Any]], None], max_batch_bytes: int,
        brief: Callable[[int, int], bool] = lambda changes, size: True,
    ) -> None:  # fmt: skip
        self._write, self._brief = write, brief
        self._max_bytes = max_batch_bytes
        self._queue: list[Change] = []
        self._queue_lock = threading.Lock()
        self.io = threading.RLock()
        """Held while anything is written; compaction and snapshots take it to see a settled log."""
        self.latency = Latencies()
        """From a change's handing over to its acknowledgement."""
        self._usual_s = 2 * BRIEF_S
        """How long a batch of at most `BRIEF_BYTES` takes: about the median of late."""
        self._fronts: weakref.WeakKeyDictionary[Any, LoopFront] = weakref.WeakKeyDictionary()
        self._latest: LoopFront | None = None
        self._orders: SimpleQueue[LoopFront | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def waiting(self) -> int:
        """Changes queued and not yet being written."""
        return len(self._queue) + sum(len(front.queue) for front in list(self._fronts.values()))

    def submit(self, change: Change) -> Any:
        """Make one change durable; returns its result or raises its error."""
        change.started_s = time.perf_counter()
        if not self._queue and self.io.acquire(blocking=False):  # nobody else: write directly
            try:
                self._run([change], change.size)
            finally:
                self.io.release()
        else:
            with self._queue_lock:
                self._queue.append(change)
            self._lead(change)
        self.latency.extend((change.started_s,), time.perf_counter())
        if change.error is not None:
            raise change.error
        return change.result

    def _lead(self, change: Change) -> None:
        """Wait until a queued change is written; whoever gets the lock first writes all that is queued."""
        while not change.done:
            with self.io:
                if not change.done:
                    with self._queue_lock:
                        batch, size = self._take(self._queue)
                    self._run(batch, size)

    def enqueue(self, change: Change) -> asyncio.Future[Any]:
        """`submit` for coroutines: a future of the running loop."""
        loop = asyncio.get_running_loop()
        front = self._latest
        if front is None or front.loop() is not loop:
            front = self._fronts.get(loop)
            if front is None:
                front = self._fronts[loop] = LoopFront(self, loop)
            self._latest = front
        change.started_s = time.perf_counter()
        future = change.future = loop.create_future()
        front.queue.append(change)
        if not front.busy:
            front.busy = True
            loop.call_soon(front.start)
        return future

    def write_here(self, front: LoopFront) -> bool:
        """Write and acknowledge a loop's next batch in the calling thread; False where that could take long."""
        if self._usual_s > BRIEF_S or not self.io.acquire(blocking=False):
            return False
        try:
            size = sum([change.size for change in front.queue])
            if size > BRIEF_BYTES or not self._brief(len(front.queue), size):
                return False
            batch, front.queue = front.queue, []
            try:
                self._run(batch, size)
            finally:
                front.acknowledge(batch)
        finally:
            self.io.release()
        return True

    def order(self, front: LoopFront) -> None:
        """Let the writing thread take what a loop has queued."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="buffer-commit", daemon=True)
            self._thread.start()
        self._orders.put(front)

    def close(self) -> None:
        """Wait for what is being written."""
        if self._thread is not None:
            self._orders.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (front := self._orders.get()) is not None:
            with self.io:
                batch, size = self._take(front.queue)
                self._run(batch, size)
            loop = front.loop()
            if loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                    loop.call_soon_threadsafe(front.acknowledge, batch)

    def _run(self, batch: list[Change], size: int) -> None:
        """Write a batch now; each of its changes has a result or an error then. The caller holds `io`."""
        started = time.perf_counter()
        try:
            self._write(batch)
        except BaseException as error:
            for change in batch:
                change.error = error
            if not isinstance(error, Exception):
                raise
            log.exception("a commit failed")
        finally:
            for change in batch:
                change.done = True
        if size <= BRIEF_BYTES:
            seconds = time.perf_counter() - started
            self._usual_s *= STEP if seconds > self._usual_s else 1.0 / STEP
            if seconds > STALL_S:
                self._usual_s = max(self._usual_s, 2 * BRIEF_S)

    def _take(self, queue: list[Change]) -> tuple[list[Change], int]:
        """Remove and return the next batch of a queue, and its bytes."""
        total = count = 0
        while count < len(queue) and total < self._max_bytes:
            total += queue[count].size
            count += 1
        batch = queue[:count]
        del queue[:count]
        return batch, total

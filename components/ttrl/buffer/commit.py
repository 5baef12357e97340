"""Group commit: whoever waits joins the next flush; one flush at a time.

Threads: the first waiter becomes leader, takes all that is queued and writes it; with nobody else waiting that is a
direct write. Coroutines: one thread writes for all loops, whose queues say when (turns.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from components.ttrl.buffer.metrics import Latencies
from components.ttrl.buffer.turns import LoopFront

log = logging.getLogger(__name__)


class Change:
    """Something to be made durable. Subclasses say what; the writer fills `result` or `error`."""

    __slots__ = ("done", "error", "future", "result", "started_s")
    size = 0
    future: asyncio.Future[Any]

    def __init__(self) -> None:
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.started_s = time.perf_counter()


class GroupCommit:
    """Hands batches of changes to `write`, never two at once.

    Args:
        write: Makes a batch durable and sets every change's `result` or `error`; must not raise.
        max_batch_bytes: A batch ends when its changes' sizes exceed this.
    """

    def __init__(self, write: Callable[[list[Any]], None], max_batch_bytes: int) -> None:
        self._write = write
        self._max_bytes = max_batch_bytes
        self._queue: list[Change] = []
        self._queue_lock = threading.Lock()
        self.io = threading.RLock()
        """Held while anything is written; compaction and snapshots take it to see a settled log."""
        self.latency = Latencies()
        """From a change's making to its acknowledgement."""
        self._fronts: weakref.WeakKeyDictionary[Any, LoopFront] = weakref.WeakKeyDictionary()
        self._latest: LoopFront | None = None
        self._orders: SimpleQueue[LoopFront | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def waiting(self) -> int:
        """Changes queued and not yet being written."""
        return len(self._queue) + sum(len(front.queue) for front in list(self._fronts.values()))

    def submit(self, change: Change) -> Any:
        """Make one change durable; returns its result or raises its error."""
        if not self._queue and self.io.acquire(blocking=False):  # nobody else: write directly
            try:
                self._run([change])
            finally:
                self.io.release()
        else:
            with self._queue_lock:
                self._queue.append(change)
            self._lead(change)
        self.latency.add(time.perf_counter() - change.started_s)
        if change.error is not None:
            raise change.error
        return change.result

    def _lead(self, change: Change) -> None:
        """Wait until a queued change is written; whoever gets the lock first writes all that is queued."""
        while not change.done:
            with self.io:
                if not change.done:
                    with self._queue_lock:
                        batch = self.take(self._queue)
                    self._run(batch)

    def enqueue(self, change: Change) -> asyncio.Future[Any]:
        """`submit` for coroutines: a future of the running loop, which never blocks."""
        loop = asyncio.get_running_loop()
        front = self._latest
        if front is None or front.loop() is not loop:
            front = self._fronts.get(loop)
            if front is None:
                front = self._fronts[loop] = LoopFront(self, loop)
            self._latest = front
        future = change.future = loop.create_future()
        front.queue.append(change)
        if not front.busy:
            front.busy = True
            loop.call_soon(front.start)
        return future

    def close(self) -> None:
        """Wait for what is being written."""
        if self._thread is not None:
            self._orders.put(None)
            self._thread.join()
            self._thread = None

    def _run(self, batch: list[Change]) -> None:
        """Write a batch now. The caller holds `io`."""
        try:
            self._write(batch)
        except BaseException as error:
            for change in batch:
                if not change.done:
                    change.error = error
            raise
        finally:
            for change in batch:
                change.done = True

    def order(self, front: LoopFront) -> None:
        """Let the writing thread take what a loop has queued."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="buffer-commit", daemon=True)
            self._thread.start()
        self._orders.put(front)

    def _work(self) -> None:
        while (front := self._orders.get()) is not None:
            batch = self.take(front.queue, front.share)
            started = time.perf_counter()
            try:
                with self.io:
                    self._run(batch)
            except BaseException:
                log.exception("a commit failed")  # its changes carry the error
            resting = front.rests_after(time.perf_counter() - started)
            loop = front.loop()
            if loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                    loop.call_soon_threadsafe(front.acknowledge, batch, resting)
            if not resting:
                self._orders.put(front)

    def take(self, queue: list[Change], most: int = sys.maxsize) -> list[Change]:
        """Remove and return the next batch of a queue, at most `most` changes."""
        total = count = 0
        while count < min(len(queue), most) and total < self._max_bytes:
            total += queue[count].size
            count += 1
        batch = queue[:count]
        del queue[:count]
        return batch

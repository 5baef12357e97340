"""Group commit: whoever waits joins the next flush; one flush at a time.

Threads: the first waiter becomes leader, takes all that is queued and writes it; with nobody else waiting that is a
direct write. Coroutines: a loop's changes are collected for one loop tick after the previous flush was acknowledged, so
that every writer woken by it can join the next, and one thread writes them.
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

from components.ttrl.buffer.metrics import Latencies

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
        self._fronts: weakref.WeakKeyDictionary[Any, _LoopFront] = weakref.WeakKeyDictionary()
        self._latest: _LoopFront | None = None
        self._orders: SimpleQueue[tuple[_LoopFront, list[Change]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def waiting(self) -> int:
        """Changes queued and not yet being written."""
        return len(self._queue) + sum(len(front.queue) for front in list(self._fronts.values()))

    def submit(self, change: Change) -> Any:
        """Make one change durable; returns its result or raises its error."""
        with self._queue_lock:
            self._queue.append(change)
        while not change.done:
            with self.io:
                if not change.done:
                    with self._queue_lock:
                        batch = self._take(self._queue)
                    self._run(batch)
        self.latency.add(time.perf_counter() - change.started_s)
        if change.error is not None:
            raise change.error
        return change.result

    def enqueue(self, change: Change) -> asyncio.Future[Any]:
        """`submit` for coroutines: a future of the running loop, which never blocks."""
        loop = asyncio.get_running_loop()
        front = self._latest
        if front is None or front.loop() is not loop:
            front = self._fronts.get(loop)
            if front is None:
                front = self._fronts[loop] = _LoopFront(self, loop)
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

    def _order(self, front: _LoopFront, batch: list[Change]) -> None:
        """Let the writing thread write a batch."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="buffer-commit", daemon=True)
            self._thread.start()
        self._orders.put((front, batch))

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            front, batch = order
            try:
                with self.io:
                    self._run(batch)
            except BaseException:
                log.exception("a commit failed")  # its changes carry the error
            loop = front.loop()
            if loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                    loop.call_soon_threadsafe(front.acknowledge, batch)

    def _take(self, queue: list[Change]) -> list[Change]:
        total = count = 0
        while count < len(queue) and total < self._max_bytes:
            total += queue[count].size
            count += 1
        batch = queue[:count]
        del queue[:count]
        return batch


class _LoopFront:
    """The queue of one event loop."""

    def __init__(self, commit: GroupCommit, loop: asyncio.AbstractEventLoop) -> None:
        self.commit, self.loop = weakref.proxy(commit), weakref.ref(loop)
        self.queue: list[Change] = []
        self.busy = False

    def start(self) -> None:
        """Hand over what is queued; with nothing there, rest."""
        batch = self.commit._take(self.queue)
        if batch:
            self.commit._order(self, batch)
        else:
            self.busy = False

    def acknowledge(self, batch: list[Change]) -> None:
        """Wake the writers of a batch, and start the next when they have had a tick to come back."""
        now, latency = time.perf_counter(), self.commit.latency
        for change in batch:
            latency.add(now - change.started_s)
            if not change.future.done():
                if change.error is not None:
                    change.future.set_exception(change.error)
                else:
                    change.future.set_result(change.result)
        loop = self.loop()
        if loop is not None:
            loop.call_soon(self.start)

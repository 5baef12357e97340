"""Group commit: whoever waits joins the next flush; one flush at a time.

Threads: the first waiter becomes leader, takes all that is queued and writes it; with nobody else waiting that is a
direct write. Coroutines: a loop's changes are collected for one loop tick after the previous flush was acknowledged, so
that every writer woken by it can join the next, and one thread writes them.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Change:
    """Something to be made durable. Subclasses say what; the writer fills `result` or `error`."""

    __slots__ = ("done", "error", "future", "result")
    size = 0

    def __init__(self) -> None:
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.future: asyncio.Future[Any] | None = None


class GroupCommit:
    """Hands batches of changes to `write`, never two at once.

    Args:
        write: Makes a batch durable and sets every change's `result` or `error`; must not raise.
        max_batch_bytes: A batch ends when its changes' sizes exceed this.
    """

    def __init__(self, write: Callable[[list[Change]], None], max_batch_bytes: int) -> None:
        self._write = write
        self._max_bytes = max_batch_bytes
        self._queue: list[Change] = []
        self._queue_lock = threading.Lock()
        self.io = threading.RLock()
        """Held while anything is written; compaction and snapshots take it to see a settled log."""
        self._executor: ThreadPoolExecutor | None = None
        self._fronts: weakref.WeakKeyDictionary[Any, _LoopFront] = weakref.WeakKeyDictionary()

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
                    self.run(batch)
        if change.error is not None:
            raise change.error
        return change.result

    async def submit_async(self, change: Change) -> Any:
        """`submit` for coroutines: the event loop never blocks."""
        loop = asyncio.get_running_loop()
        front = self._fronts.get(loop)
        if front is None:
            front = self._fronts[loop] = _LoopFront(self, loop)
        change.future = loop.create_future()
        front.queue.append(change)
        if not front.busy:
            front.busy = True
            loop.call_soon(front.start)
        return await change.future

    def run(self, batch: list[Change]) -> None:
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

    def executor(self) -> ThreadPoolExecutor:
        """The thread that writes coroutines' batches."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="buffer-commit")
        return self._executor

    def close(self) -> None:
        """Wait for what is being written."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)

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
        batch = self.commit._take(self.queue)
        if not batch:
            self.busy = False
            return
        self.commit.executor().submit(self._work, batch)

    def _work(self, batch: list[Change]) -> None:
        try:
            with self.commit.io:
                self.commit.run(batch)
        finally:
            loop = self.loop()
            if loop is not None and not loop.is_closed():
                loop.call_soon_threadsafe(self._acknowledge, batch)

    def _acknowledge(self, batch: list[Change]) -> None:
        for change in batch:
            future = change.future
            if future is not None and not future.done():
                if change.error is not None:
                    future.set_exception(change.error)
                else:
                    future.set_result(change.result)
        loop = self.loop()
        if loop is not None:
            loop.call_soon(self.start)

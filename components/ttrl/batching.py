"""One thread that owns the engine: requests are answered in batches, everything else happens between batches.

Role: a policy is not thread-safe, and a batch costs little more than a single request. A request waits at most
`wait_s` for company. `exclusive(work)` runs something (an adapter swap) when no batch is under way, which is what makes
the swap atomic for every request: it is answered wholly by the old adapter or wholly by the new one.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

Ask = TypeVar("Ask")
Answer = TypeVar("Answer")
T = TypeVar("T")


@dataclass
class _Item:
    future: Future[Any]
    ask: Any = None
    work: Callable[[], Any] | None = None


class Batcher(Generic[Ask, Answer]):
    """Runs `answer(asks)` on a thread of its own.

    Args:
        answer: Takes a batch, returns one answer an ask, in order.
        most: Largest batch.
        wait_s: How long the first ask of a batch waits for others.
    """

    def __init__(self, answer: Callable[[list[Ask]], list[Answer]], *, most: int, wait_s: float) -> None:
        self._answer, self._most, self._wait_s = answer, most, wait_s
        self._queue: queue.Queue[_Item | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def submit(self, ask: Ask) -> Future[Answer]:
        """Ask; the future holds the answer, or the exception of its batch."""
        item = _Item(Future(), ask=ask)
        self._queue.put(item)
        return item.future

    def in_turn(self, asks: Sequence[Ask], wait: Callable[[Future[Answer]], Answer]) -> list[Answer]:
        """Answer many asks of one request, a batch of them queued at a time: later requests wait for one, not for all.

        Alone on the thread the batches are those that queueing all at once would make.

        Args:
            asks: What is asked, in order.
            wait: The future's answer; what it raises gives up the rest.
        """
        answers: list[Answer] = []
        for start in range(0, len(asks), self._most):
            futures = [self.submit(ask) for ask in asks[start : start + self._most]]
            try:
                answers += [wait(future) for future in futures]
            except BaseException:
                for future in futures:  # nobody waits for the rest: they must not keep other requests waiting
                    future.cancel()
                raise
        return answers

    def exclusive(self, work: Callable[[], T]) -> Future[T]:
        """Run `work` between batches."""
        item = _Item(Future(), work=work)
        self._queue.put(item)
        return item.future

    def close(self) -> None:
        """Finish what was submitted and end the thread."""
        self._queue.put(None)
        self._thread.join(60)

    def _run(self) -> None:
        carried: _Item | None = None
        while True:
            item = carried or self._queue.get()
            carried = None
            if item is None:
                return
            if item.work is not None:
                _settle([item], partial(_alone, item.work))
                continue
            batch, stop = [item], False
            deadline = time.monotonic() + self._wait_s
            while len(batch) < self._most:
                try:
                    more = self._queue.get(timeout=max(deadline - time.monotonic(), 0))
                except queue.Empty:
                    break
                if more is None:
                    stop = True
                    break
                if more.work is not None:
                    carried = more
                    break
                batch.append(more)
            _settle(batch, partial(self._answer, [one.ask for one in batch]))
            if stop:
                return


def _alone(work: Callable[[], Any]) -> list[Any]:
    return [work()]


def _settle(items: list[_Item], work: Callable[[], list[Any]]) -> None:
    live = [item for item in items if item.future.set_running_or_notify_cancel()]
    if not live:
        return
    try:
        results = work()
    except BaseException as error:
        for item in live:
            item.future.set_exception(error)
        return
    for item, result in zip(items, results, strict=True):
        if item in live:
            item.future.set_result(result)

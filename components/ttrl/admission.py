"""How many requests are let in, how many are worked on, and how many bytes of uploads are held meanwhile.

Guarantee: an upload that is still on its way holds a place to wait, never one to work: slow or silent clients delay
nobody's answer, and `ttrl.upload_timeout_s` ends them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from components.shared.runtime.errors import PixelisError
from components.ttrl.metrics import Metrics
from components.ttrl.uploads import Room

WAITING = 4
"""Requests that may be on their way or wait, for each one that is worked on."""


class Refused(PixelisError):
    """A request that is refused with a status of its own."""

    def __init__(self, status: int, message: str, *, remedy: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(message, remedy=remedy)
        self.status, self.retry_after_s = status, retry_after_s


class Admission:
    """At most `limit` requests at work, `WAITING` times as many on their way or waiting.

    Args:
        limit: `ttrl.concurrency`.
        max_bytes: `ttrl.max_body_bytes`; all uploads together hold no more than `limit` largest bodies.
        metrics: Counts what is at work.
    """

    def __init__(self, limit: int, max_bytes: int, metrics: Metrics) -> None:
        self._places = limit * (1 + WAITING)
        self._admitted = 0
        self._work = asyncio.Semaphore(limit)
        self._metrics = metrics
        self.room = Room(limit * max_bytes)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Let a request in, from its head to its answer.

        Raises:
            Refused: 429, every place is taken.
        """
        if self._admitted >= self._places:
            raise Refused(
                429,
                f"{self._places} requests are worked on or wait already, so this one was refused unread.",
                remedy="Ask again after the seconds that Retry-After names; ttrl.concurrency sets how many may.",
                retry_after_s=1.0,
            )
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn to work, and hold it."""
        async with self._work:
            self._metrics.in_flight.inc()
            try:
                yield
            finally:
                self._metrics.in_flight.dec()

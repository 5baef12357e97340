"""Progress of long work, shown wherever the work runs.

A step calls `track(items, "rendering")` or `Progress(total, "rendering")`. The state goes to the file named by
PIXELIS_PROGRESS_FILE (the command line draws bars from it) and, every `LOG_EVERY_S` seconds, to the log, so a pod's log
shows it too. Never a terminal control character is written by a step itself.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
LOG_EVERY_S = 15.0
WRITE_EVERY_S = 0.25
log = logging.getLogger(__name__)


class Progress:
    """Counts work done towards `total`; cheap enough to call in an inner loop."""

    def __init__(self, total: int, what: str, *, unit: str = "") -> None:
        self.total, self.what, self.unit, self.done, self.note = total, what, unit, 0, ""
        self._start = self._logged = time.monotonic()
        self._written = 0.0
        self._path = os.environ.get("PIXELIS_PROGRESS_FILE")
        self._publish(force=True)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Add to the work done; `note` is a short figure shown beside the bar, such as `loss 0.41`."""
        self.done += count
        self.note = note or self.note
        self._publish(force=self.done >= self.total)

    def _publish(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if self._path and (force or now - self._written >= WRITE_EVERY_S):
            self._written = now
            state = {"what": self.what, "done": self.done, "total": self.total, "unit": self.unit, "note": self.note}
            partial = f"{self._path}.{os.getpid()}"
            try:
                with open(partial, "w") as file:
                    json.dump(state, file)
                os.replace(partial, self._path)
            except OSError:  # progress is a courtesy: a full disk is reported by the work itself
                self._path = None
        if now - self._logged >= LOG_EVERY_S:
            self._logged = now
            elapsed = now - self._start
            eta = elapsed / self.done * (self.total - self.done) if self.done else float("nan")
            log.info("%s %d/%d %s, %.0f s left %s", self.what, self.done, self.total, self.unit, eta, self.note)


def track(items: Iterable[T], what: str, *, total: int | None = None, unit: str = "") -> Iterator[T]:
    """Iterate and report progress; `total` defaults to `len(items)`."""
    count = total if total is not None else len(items)  # type: ignore[arg-type]
    bar = Progress(count, what, unit=unit)
    for item in items:
        yield item
        bar.advance()

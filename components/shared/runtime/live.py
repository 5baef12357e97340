"""Curves in MLflow while a step still runs.

Role: a training loop notes values; a thread sends them in batches to the step's run, whose id `run_step` puts into the
environment (so processes that the step starts find it too). The end of the step adds what is missing (tracking.py).
Guarantees: training never waits for the server nor fails with it: the first failure is said once and ends the sending.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from types import TracebackType
from typing import Any

from components.shared.runtime.tracking import STEP_RUN, client

EVERY_S = 5.0
MOST = 900
log = logging.getLogger(__name__)


class LiveCurves:
    """Sends curves of the step that runs; does nothing where no step's run is open.

    Args:
        enabled: False for processes of a group that report nothing.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self.run = os.environ.get(STEP_RUN, "") if enabled else ""
        self._waiting: list[tuple[str, float, int, int]] = []
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="live-curves")

    def __enter__(self) -> LiveCurves:
        if self.run:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self.run:
            self._thread.join(timeout=30)

    def note(self, step: int, **values: float) -> None:
        """Values of a step by curve; returns at once."""
        if self.run:
            stamp = int(time.time() * 1000)
            with self._lock:
                self._waiting += [(f"curve.{name}", v, stamp, step) for name, v in values.items() if math.isfinite(v)]

    def _work(self) -> None:
        api: Any = None
        while True:
            last = self._over.wait(EVERY_S)
            try:
                api = api or client()
                self._send(api)
            except Exception as error:
                log.warning("curves do not reach MLflow while this step runs (%s); they follow at its end", error)
                self.run = ""
                return
            if last:
                return

    def _send(self, api: Any) -> None:
        from mlflow.entities import Metric

        with self._lock:
            taken, self._waiting = self._waiting, []
        for start in range(0, len(taken), MOST):
            api.log_batch(self.run, metrics=[Metric(*item) for item in taken[start : start + MOST]])

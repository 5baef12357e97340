"""Updates as the serving process sees them: a bounded queue of tasks, a worker process, verdicts, publication.

Role: owns the worker's life and the ledger. A thread takes a task, starts the worker if none runs, answers its request
for a batch from the memory, judges what it brings (guard.py), publishes and swaps, and records everything.

Guarantees: a full queue drops the task and counts it, it never makes a request wait; a worker that dies, hangs or
speaks nonsense ends as a `failed` record and is started anew with growing pauses; an accepted adapter serves from one
batch to the next; after `freeze_after` rejections in a row learning is frozen until an operator resumes it, across
restarts too.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from components.ttrl.channel import Channel
from components.ttrl.config import TtrlConfig
from components.ttrl.gating import cap_sources, learning_rate
from components.ttrl.guard import AdapterStore, CanaryFigures, Ledger, Status, UpdateRecord, judge
from components.ttrl.memory import Memory, MemoryFault
from components.ttrl.metrics import Metrics

log = logging.getLogger(__name__)
WORKER = (sys.executable, "-m", "components.ttrl.update_worker")
OVERSAMPLE = 4
"""Experiences drawn for each one used, so that the source cap has a choice."""


class Updates:
    """See the module.

    Args:
        model: Promoted model folder.
        labels: Names that a pseudo-label can have.
        swap: Puts a published adapter into service: (folder, digest).
        command: How the worker process is started.
    """

    def __init__(
        self,
        config: Callable[[], TtrlConfig],
        *,
        model: Path,
        state: Path,
        labels: tuple[str, ...],
        memory: Memory,
        store: AdapterStore,
        ledger: Ledger,
        metrics: Metrics,
        swap: Callable[[Path, str], None],
        anchor_digest: str,
        command: Sequence[str] = WORKER,
    ) -> None:
        self._config, self._model, self._state, self._labels = config, model, state, labels
        self._memory, self._store, self._ledger, self._metrics = memory, store, ledger, metrics
        self._swap, self._anchor_digest, self._command = swap, anchor_digest, command
        self._tasks: queue.Queue[str | None] = queue.Queue(maxsize=config().update_queue)
        self._candidates = state / "candidates"
        shutil.rmtree(self._candidates, ignore_errors=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._failures = 0
        self._closing = threading.Event()
        self.frozen = self._why_frozen()
        """Why learning is frozen, empty while it is not."""
        self.working = False
        self._thread = threading.Thread(target=self._run, name="updates", daemon=True)
        self._thread.start()

    def request(self) -> bool:
        """Ask for an update; False where the queue is full or learning is frozen."""
        if self.frozen or self._closing.is_set():
            return False
        try:
            self._tasks.put_nowait(uuid.uuid4().hex)
        except queue.Full:
            self._metrics.dropped_tasks.inc()
            return False
        return True

    def thaw(self) -> None:
        """Allow updates again; the record of it ends the row of rejections, also for the next start."""
        if self.frozen:
            reason, self.frozen = self.frozen, ""
            self._keep(self._record("", time.time(), status="resumed", reason=f"by an operator; {reason}"))

    def _why_frozen(self) -> str:
        """Whether the canary rejected the last updates of this model; what operators withheld does not count."""
        limit = self._config().freeze_after
        judged = ("accepted", "rejected", "rolled_back", "resumed")
        recent = [
            record.status
            for record in self._ledger.records
            if record.status in judged and record.model_digest == self._store.model_digest
        ]
        return f"{limit} updates in a row were rejected" if recent[-limit:] == ["rejected"] * limit else ""

    def state(self) -> dict[str, Any]:
        """What /status shows."""
        process = self._process
        return {
            "waiting": self._tasks.qsize(),
            "working": self.working,
            "frozen": self.frozen,
            "worker_pid": process.pid if process is not None and process.poll() is None else None,
            "num_tried": self.num_tried,
        }

    @property
    def num_tried(self) -> int:
        """Updates of this promoted model that were carried out, whatever the verdict."""
        done = ("accepted", "rejected", "withheld", "unchanged")
        return sum(
            record.status in done and record.model_digest == self._store.model_digest for record in self._ledger.records
        )

    def close(self) -> None:
        """End the worker and the thread; an update under way is given up."""
        self._closing.set()
        with contextlib.suppress(queue.Full):
            self._tasks.put_nowait(None)
        deadline = time.monotonic() + 20
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._stop_worker()  # again: the thread may just have been starting one
            self._thread.join(0.2)

    def _run(self) -> None:
        while not self._closing.is_set():
            task = self._tasks.get()
            if task is None:
                return
            if self.frozen:
                continue
            self.working = True
            started = time.time()
            try:
                record = self._update(task, started)
                self._failures = 0
            except Exception as error:  # whatever a worker does, this thread goes on
                if self._closing.is_set():
                    return
                self._stop_worker()
                self._failures += 1
                record = self._record(task, started, status="failed", reason=f"{type(error).__name__}: {error}"[:300])
            finally:
                self.working = False
                shutil.rmtree(self._candidates / task, ignore_errors=True)
            self._keep(record)
            if record.status == "failed":
                self._closing.wait(min(2.0**self._failures, 60.0))

    def _keep(self, record: UpdateRecord) -> None:
        try:
            self._ledger.append(record)
        except OSError as error:
            log.error("update %s cannot be recorded: %s", record.update_id, error.strerror)
        self._metrics.updates.labels(record.status).inc()
        log.info("update %s: %s %s", record.update_id[:8], record.status, record.reason)
        if record.status == "rejected" and (reason := self._why_frozen()):
            self.frozen = reason
            log.warning("learning is frozen: %s", reason)

    def _update(self, task: str, started: float) -> UpdateRecord:
        config = self._config()
        channel = self._worker(config)
        current = self._store.current
        candidate = self._candidates / task
        deadline = time.monotonic() + config.update_timeout_s
        channel.send(
            {
                "type": "task",
                "task_id": task,
                "adapter": str(self._store.directory(current)) if current else "",
                "candidate": str(candidate),
                "seed": (config.seed + 1_000_003 * (len(self._ledger.records) + 1)) % 2**31,
            },
            config.update_timeout_s,
        )
        message = channel.receive(config.update_timeout_s)
        rate = 0.0
        if message["type"] == "batch?":
            items, rate = self._batch(config)
            batch = {"type": "batch", "items": items, "learning_rate": rate}
            channel.send(batch, max(deadline - time.monotonic(), 1.0))
            message = channel.receive(max(deadline - time.monotonic(), 1.0))
        if message["type"] in ("failed", "skipped"):
            return self._record(task, started, status=message["type"], reason=message["reason"])
        return self._judge(task, started, message, candidate, rate, current)

    def _judge(
        self, task: str, started: float, message: dict[str, Any], candidate: Path, rate: float, current: str
    ) -> UpdateRecord:
        from components.ttrl.model import adapter_digest

        config = self._config()
        before, after, anchor = (
            CanaryFigures.model_validate(message[name]) for name in ("canary_before", "canary_after", "canary_anchor")
        )
        verdict = judge(
            digest_before=message["digest_before"],
            digest_after=message["digest_after"],
            before=before,
            after=after,
            anchor=anchor,
            tolerance=config.canary_tolerance,
        )
        status: Status = verdict.status
        reason = verdict.reason
        if status == "accepted" and not config.learn:
            status, reason = "withheld", "learning was paused while the update was under way"
        with self._store.lock:
            if status == "accepted" and self._store.current != current:
                status, reason = "withheld", "another adapter was put into service while the update was under way"
            if status == "accepted":
                folder = self._store.publish(candidate, message["digest_after"], check=adapter_digest)
                try:
                    self._swap(folder, message["digest_after"])
                except Exception:  # whatever it is: what is published must be what serves
                    self._store.rollback()
                    raise
        serving = after if status == "accepted" else before
        self._metrics.canary.set(serving.accuracy)
        self._note_visits(message["visits"])
        return self._record(
            task,
            started,
            status=status,
            reason=reason,
            adapter_before=message["digest_before"],
            adapter_after=message["digest_after"],
            canary_before=before,
            canary_after=after,
            canary_anchor=anchor,
            changed_answers=message["changed_answers"],
            num_experiences=message["num_experiences"],
            num_rollouts=message["num_rollouts"],
            weight_change=message["weight_change"],
            figures=message["figures"],
            learning_rate=rate,
        )

    def _batch(self, config: TtrlConfig) -> tuple[list[dict[str, Any]], float]:
        """The experiences to learn from, and the learning rate that their mean weight allows."""
        drawn = self._memory.lessons(OVERSAMPLE * config.update_batch, self._labels)
        kept = cap_sources(
            drawn, [item.source for item in drawn], batch=config.update_batch, max_share=config.max_source_share
        )
        rate = learning_rate(
            config.learning_rate,
            confidence=sum(item.weight for item in kept) / max(len(kept), 1),
            num_updates=self.num_tried,
            ramp_updates=config.ramp_updates,
        )
        items = [
            {
                "id": item.id,
                "question": item.question,
                "times_s": list(item.times_s),
                "jpegs": list(item.jpegs),
                "label": item.label,
                "negatives": list(item.negatives),
                "neutral": list(item.neutral),
                "weight": item.weight,
                "visits": item.visits,
                "flips": item.flips,
            }
            for item in kept
        ]
        return items, rate

    def _note_visits(self, visits: list[Any]) -> None:
        for identity, count, flips, reward in visits:
            try:
                self._memory.visited(identity, visits=count, flips=flips, reward=reward)
            except (MemoryFault, KeyError) as error:  # evicted or erased meanwhile, or the buffer is not ready
                log.warning("a visit was not noted: %s", type(error).__name__)

    def _record(self, task: str, started: float, **fields: Any) -> UpdateRecord:
        return UpdateRecord(
            update_id=task,
            at=started,
            model_digest=self._store.model_digest,
            seconds=time.time() - started,
            **{"adapter_before": self._store.current or self._anchor_digest, **fields},
        )

    def _worker(self, config: TtrlConfig) -> Channel:
        """The channel to a living worker, started if there is none."""
        if self._process is not None and self._process.poll() is None and self._channel is not None:
            return self._channel
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            close_fds=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        channel = Channel(self._process.stdout, self._process.stdin)  # type: ignore[arg-type]
        self._channel = channel
        hello = {"type": "hello", "model": str(self._model), "config": config.model_dump(mode="json")}
        channel.send(hello, config.update_timeout_s)
        ready = channel.receive(config.update_timeout_s)
        log.info("update worker %d is ready, %d canary questions", self._process.pid, ready["num_canary"])
        return channel

    def _stop_worker(self) -> None:
        process, self._process, self._channel = self._process, None, None
        if process is None:
            return
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in a driver: the system ends it when it can
            process.wait(10)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

"""Many calls in worker processes, under hard limits of time and memory.

Role: `OperationPool.map` executes calls in order of arrival on a few processes, each with a registry of its own. A
worker that exceeds the time limit is killed and replaced, one that exceeds its memory limit fails the call; the call
then has a structured error, the others go on.
Guarantees: results in the order of the calls; a hung, crashing or memory-eating operation (a plugin's native code
included) costs its own call only; only the frames a call touches travel.
Not guaranteed: speed for cheap calls: a ZOOM_IN takes less time here in the registry than its frame takes to travel.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import queue
import resource
import threading
from collections.abc import Iterable, Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import numpy as np

from components.shared.operations.config import TWIN_OPERATIONS, OperationsConfig
from components.shared.operations.discovery import default_registry
from components.shared.operations.frames import Frames
from components.shared.operations.registry import Registry
from components.shared.operations.result import OperationError, OperationFault, OperationResult, failure
from components.shared.runtime.errors import EnvironmentFault

START_LIMIT_S = 600.0
"""What a worker's start, and what loading an operation's model in it, may take."""
GRACE_S = 1.0
"""What a worker gets past the registry's own time limit before it is killed."""
log = logging.getLogger(__name__)
Call = tuple[Any, Any, Any]


class SparseFrames(Sequence[np.ndarray]):
    """A sequence of known length of which only some frames are here."""

    def __init__(self, length: int, frames: dict[int, np.ndarray]) -> None:
        self._length, self._frames = length, frames

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        """Frame `index`; a KeyError where the operation said it would not touch it."""
        return self._frames[index]


class Worker:
    """One process and the pipe to it."""

    def __init__(self, config: OperationsConfig, memory_bytes: int | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, remote = context.Pipe()
        self.process = context.Process(target=serve, args=(remote, config.canonical(), memory_bytes), daemon=True)
        self.process.start()
        remote.close()
        self.ready = False

    def call(self, message: tuple[Any, Any, SparseFrames], limit_s: float) -> OperationResult:
        """Send a call and wait for its result; raises EOFError where the process died, TimeoutError where it hangs."""
        if not self.ready:
            if not self.pipe.poll(START_LIMIT_S):
                raise TimeoutError
            self.pipe.recv()
            self.ready = True
        self.pipe.send(message)
        if not self.pipe.poll(START_LIMIT_S):
            raise TimeoutError
        self.pipe.recv()  # what the operation needs is loaded; its time runs from here
        if not self.pipe.poll(limit_s):
            raise TimeoutError
        result: OperationResult = self.pipe.recv()
        return result

    def stop(self) -> None:
        """End the process, gently where it listens."""
        with contextlib.suppress(OSError):
            self.pipe.close()
        self.process.join(0.5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class OperationPool:
    """Worker processes for operations; a context manager.

    Args:
        config: Settings of the registries; its `time_limit_s` is the hard limit a call.
        workers: Processes.
        memory_bytes: Address space a worker may use, None for no limit.
    """

    def __init__(
        self, config: OperationsConfig = TWIN_OPERATIONS, *, workers: int = 2, memory_bytes: int | None = 6 * 2**30
    ) -> None:
        if workers < 1:
            raise EnvironmentFault(f"a pool of {workers} workers can execute nothing.", remedy="Use at least one.")
        self.config, self._memory = config, memory_bytes
        self._registry: Registry = default_registry(config)
        self._idle: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()
        self._num_workers = workers
        for _ in range(workers):
            self._idle.put(None)  # started when first needed

    def execute(self, name: Any, arguments: Any, frames: Any) -> OperationResult:
        """Run one call in a worker; waits for a free one. Never raises for what a policy or plugin does."""
        try:
            message = self._prepare(name, arguments, frames)
        except OperationFault as fault:
            return failure(fault.error)
        except Exception as error:  # a lazy sequence that fails while its frames are gathered
            log.warning("call of %.80r could not be prepared: %s", name, error)
            return failure(OperationError("internal", f"{type(error).__name__} while preparing the call."))
        worker = self._idle.get()
        limit = self.config.time_limit_s + GRACE_S
        if worker is None:
            try:
                worker = Worker(self.config, self._memory)
            except BaseException as error:
                self._idle.put(None)  # else the next call, and `close`, would wait for this worker for ever
                if not isinstance(error, OSError):
                    raise
                return failure(OperationError("internal", f"no process could be started for {name} ({error})."))
        try:
            result = worker.call(message, limit)
        except TimeoutError:
            worker.stop()
            self._idle.put(None)
            return failure(OperationError("timeout", f"{name} took more than {self.config.time_limit_s:g} s."))
        except (EOFError, OSError):
            worker.stop()
            code = worker.process.exitcode
            self._idle.put(None)
            return failure(OperationError("internal", f"{name} ended its process (exit code {code})."))
        except BaseException:
            worker.stop()
            self._idle.put(None)
            raise
        self._idle.put(worker)
        return result

    def map(self, calls: Iterable[Call]) -> list[OperationResult]:
        """Run (name, arguments, frames) calls on all workers; results in the order of the calls."""
        pending = list(calls)
        results: list[OperationResult | None] = [None] * len(pending)
        numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(len(pending)):
            numbers.put(number)

        def work() -> None:
            while True:
                try:
                    number = numbers.get_nowait()
                except queue.Empty:
                    return
                results[number] = self.execute(*pending[number])

        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(self._num_workers, len(pending)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lost = failure(OperationError("internal", "the call was not executed."))
        return [result or lost for result in results]

    def _prepare(self, name: Any, arguments: Any, frames: Any) -> tuple[Any, Any, SparseFrames]:
        """Validate here, so that mistakes cost no process; gather the frames the call touches."""
        item, typed = self._registry.check(name, arguments)
        view = Frames(frames, self.config.max_frame_pixels)
        touched = item.frames_used(typed, len(view)) if item.frames_used else range(len(view))
        gathered = {index: np.ascontiguousarray(view[index]) for index in touched}
        return name, arguments, SparseFrames(len(view), gathered)

    def close(self) -> None:
        """End all workers."""
        for _ in range(self._num_workers):
            worker = self._idle.get()
            if worker is not None:
                worker.stop()
        for _ in range(self._num_workers):
            self._idle.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(pipe: Connection, section: str, memory_bytes: int | None) -> None:
    """A worker's loop: receive a call, execute it, send the result, until the pipe closes."""
    if memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    registry = default_registry(OperationsConfig.parse(section, name="operations"))
    pipe.send("ready")
    while True:
        try:
            name, arguments, frames = pipe.recv()
        except (EOFError, OSError):
            return
        with contextlib.suppress(OperationFault):  # said by `execute`
            registry.prepare(registry.get(name))
        pipe.send("prepared")
        pipe.send(registry.execute(name, arguments, frames))

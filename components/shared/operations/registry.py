"""The registry of visual operations that synthesis, reinforcement, evaluation and the service share.

Role: `Registry.execute(name, arguments, frames)` validates a policy's call, runs the operation on the frames' pixels
and gives an `OperationResult`. `default_registry` (discovery.py) fills one with the built-in operations and plugins.

Guarantees: `execute` never raises for anything a policy or a plugin does: unknown names, arguments broken in any way,
bad frames, an operation that raises, hangs or returns nonsense all become a result whose error says what would be
right. Every failure is counted by (name, code): the operations' own in `faults`, their callers' in `mistakes`. Results
are deterministic; those of cacheable operations are cached by the digest of name, version, arguments and the pixels
used. The caller's frames are never changed.
Not guaranteed: a hung operation's thread cannot be killed here; it is left behind and the operation is quarantined
after `quarantine_after` of them. Memory and hard time limits need the process pool (pool.py).
"""

from __future__ import annotations

import difflib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from components.shared.operations.arguments import Arguments
from components.shared.operations.config import TWIN_OPERATIONS, OperationsConfig
from components.shared.operations.frames import Frames
from components.shared.operations.operation import Operation
from components.shared.operations.result import (
    OPERATION_FAULTS,
    ErrorCode,
    OperationError,
    OperationFault,
    OperationResult,
    failure,
)
from components.shared.operations.result_cache import ResultCache
from components.shared.operations.validation import checked_result, typed_arguments
from components.shared.runtime.errors import ConfigError

PREPARE_LIMIT_S = 600.0
"""What loading an operation's model may take before the call fails."""
T = TypeVar("T")
log = logging.getLogger(__name__)


class Registry:
    """Operations by name; safe to use from several threads."""

    def __init__(self, config: OperationsConfig = TWIN_OPERATIONS, operations: Iterable[Operation] = ()) -> None:
        self.config = config
        self.faults: Counter[tuple[str, ErrorCode]] = Counter()
        """Failures that were the operations' own."""
        self.mistakes: Counter[tuple[str, ErrorCode]] = Counter()
        """Failures that were the callers'; names that do not exist are counted together as `?`."""
        self.cache = ResultCache(config.cache_bytes)
        self._operations: dict[str, Operation] = {}
        self._prepared: set[str] = set()
        self._lock = threading.Lock()
        for item in operations:
            self.register(item)

    def register(self, item: Operation, *, override: bool = False) -> Operation:
        """Add an operation.

        Raises:
            ConfigError: its name is taken (unless `override`), or it is not an `Operation` with a usable name and
                arguments that have a JSON schema.
        """
        if not isinstance(item, Operation):
            raise ConfigError(
                f"{item!r} is not an Operation, so no policy could call it.", remedy="Use @operation(...)."
            )
        if not item.name.isidentifier() or item.name != item.name.upper():
            raise ConfigError(
                f"operation name {item.name!r} is not an upper-case word.", remedy="Name it like ZOOM_IN."
            )
        if item.name in self._operations and not override:
            raise ConfigError(
                f"operation {item.name} is registered twice.", remedy="Rename one, or pass override=True."
            )
        try:
            item.schema()
        except Exception as error:
            raise ConfigError(
                f"the arguments of operation {item.name} have no JSON schema ({type(error).__name__}: {error}), so no "
                "policy could be told how to call it.",
                remedy="Type them as a subclass of Arguments with JSON types.",
            ) from error
        self._operations[item.name] = item
        self._prepared.discard(item.name)
        return item

    def list_operations(self) -> list[dict[str, Any]]:
        """Name, description and JSON schema of every operation, by name."""
        return [self._operations[name].schema() for name in self.names()]

    def names(self) -> tuple[str, ...]:
        """Names of all operations, sorted."""
        return tuple(sorted(self._operations))

    def get(self, name: Any) -> Operation:
        """The operation of a name; raises OperationFault where there is none."""
        if isinstance(name, str) and name in self._operations:
            return self._operations[name]
        shown = name[:80] if isinstance(name, str) else type(name).__name__
        near = difflib.get_close_matches(str(name)[:80].upper(), self._operations, n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise OperationFault(
            "unknown_operation", f"there is no operation {shown!r}.{hint}", "one of " + ", ".join(self.names())
        )

    def check(self, name: Any, arguments: Any) -> tuple[Operation, Arguments]:
        """The operation and its validated arguments; raises OperationFault where either is wrong."""
        item = self.get(name)
        return item, typed_arguments(item, arguments)

    def execute(self, name: Any, arguments: Any, frames: Any) -> OperationResult:
        """Run one call.

        Args:
            name: The operation's name as the policy wrote it.
            arguments: A dict, or JSON text of one.
            frames: Sequence (lazy or not) of uint8 RGB arrays (height, width, 3) at source resolution.

        Returns:
            The result; `ok` is False for every kind of failure.
        """
        start = time.perf_counter()
        try:
            item, typed = self.check(name, arguments)
            result = self._cached(item, typed, Frames(frames, self.config.max_frame_pixels))
        except OperationFault as fault:
            result = failure(fault.error)
        except (Exception, SystemExit) as error:  # a lazy sequence that fails, or a plugin's frames_used
            log.warning("operation %.80r failed outside its body: %s: %.300s", name, type(error).__name__, error)
            result = failure(OperationError("internal", f"{type(error).__name__} while preparing the call."))
        if result.error is not None:
            known = name if isinstance(name, str) and name in self._operations else "?"
            with self._lock:
                (self.faults if result.error.code in OPERATION_FAULTS else self.mistakes)[known, result.error.code] += 1
        return replace(result, seconds=0.0 if result.cached else time.perf_counter() - start)

    def execute_many(self, calls: Iterable[tuple[Any, Any]], frames: Any) -> list[OperationResult]:
        """Run the calls of one answer in order; those beyond `max_calls` fail unexecuted."""
        limit = self.config.max_calls
        over = failure(OperationError("too_many_calls", "too many calls in one answer.", f"at most {limit} calls"))
        results = [self.execute(*call, frames) if i < limit else over for i, call in enumerate(calls)]
        if len(results) > limit:
            with self._lock:
                self.mistakes["?", "too_many_calls"] += len(results) - limit
        return results

    def prepare(self, item: Operation) -> None:
        """Load what an operation needs, once; raises OperationFault where that fails or hangs."""
        if item.prepare is None or item.name in self._prepared:
            return
        self._bounded(item, item.prepare, PREPARE_LIMIT_S, "to load")
        self._prepared.add(item.name)

    def _cached(self, item: Operation, arguments: Arguments, frames: Frames) -> OperationResult:
        key = self.cache.key(item, arguments, frames)
        if key is not None and (hit := self.cache.get(key)) is not None:
            return replace(hit, cached=True)
        result = self._limited(item, arguments, frames)
        if key is not None and result.ok:
            self.cache.put(key, result)
        return result

    def _limited(self, item: Operation, arguments: Arguments, frames: Frames) -> OperationResult:
        if self.faults[item.name, "timeout"] >= self.config.quarantine_after:
            raise OperationFault("quarantined", f"{item.name} hung too often and is switched off.", "another operation")
        self.prepare(item)

        def body() -> OperationResult:
            return checked_result(item, item.run(arguments, frames), self.config)

        return self._bounded(item, body, self.config.time_limit_s) if item.isolate else self._guarded(item, body)

    def _bounded(self, item: Operation, body: Callable[[], T], limit_s: float, doing: str = "") -> T:
        """Run in a thread that is left behind after the limit; raises OperationFault for every failure."""
        done: list[T | OperationFault] = []

        def work() -> None:
            try:
                done.append(self._guarded(item, body))
            except OperationFault as fault:
                done.append(fault)

        worker = threading.Thread(target=work, name=f"operation-{item.name}", daemon=True)
        worker.start()
        worker.join(limit_s)
        if not done:
            log.warning("operation %s ran over %.1f s; its thread is left behind", item.name, limit_s)
            raise OperationFault(
                "timeout",
                f"{item.name} took more than {limit_s:g} s {doing}".rstrip() + ".",
                "a smaller region or fewer frames",
            )
        if isinstance(done[0], OperationFault):
            raise done[0]
        return done[0]

    def _guarded(self, item: Operation, body: Callable[[], T]) -> T:
        """Run; whatever escapes becomes an OperationFault."""
        try:
            return body()
        except OperationFault:
            raise
        except BaseException as error:  # a plugin may raise anything, SystemExit and MemoryError included
            log.warning("operation %s raised", item.name, exc_info=error)
            raise OperationFault("internal", f"{item.name} failed: {type(error).__name__}.") from None

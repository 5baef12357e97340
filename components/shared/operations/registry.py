"""The registry of visual operations that synthesis, reinforcement, evaluation and the service share.

Role: `Registry.execute(name, arguments, frames)` validates a policy's call, runs the operation on the frames' pixels
and gives an `OperationResult`. Operations come from this package and from the entry points group `pixelis.operations`
(each entry point names an `Operation`, or a function `OperationsConfig -> Operation`).

Guarantees: `execute` never raises for anything a policy or a plugin does: unknown names, arguments broken in any way,
bad frames, an operation that raises, hangs or returns nonsense all become a result whose error says what would be
right, and faults of operations are counted in `faults`. Results are deterministic; those of cacheable operations are
cached by the digest of name, version, arguments and the pixels used. The caller's frames are never changed.
Not guaranteed: a hung operation's thread cannot be killed here; it is left behind and the operation is quarantined
after `quarantine_after` of them. Memory and hard time limits need the process pool (pool.py).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from typing import Any

import numpy as np
from pydantic import ValidationError

from components.shared.operations.arguments import Arguments
from components.shared.operations.config import TWIN_OPERATIONS, OperationsConfig
from components.shared.operations.frames import Frames, frame_digest
from components.shared.operations.result import (
    OPERATION_FAULTS,
    Drawing,
    ErrorCode,
    OperationError,
    OperationFault,
    OperationResult,
    failure,
)
from components.shared.runtime.config import canonical_json
from components.shared.runtime.errors import ConfigError

ENTRY_POINTS = "pixelis.operations"
MAX_ARGUMENT_CHARS = 16_384
log = logging.getLogger(__name__)

Run = Callable[[Any, Sequence[np.ndarray]], OperationResult]


@dataclass(frozen=True)
class Operation:
    """One visual operation.

    Attributes:
        name: Upper-case name the policy writes.
        description: One sentence for people and prompts.
        arguments: Its typed arguments.
        run: (arguments, frames) -> result; raises OperationFault for a call it cannot serve.
        example: Arguments of a right call, shown where a policy's were wrong.
        version: Part of the cache key: change it when results change.
        frames_used: Which frames a call touches (for the cache's key and for the pool); None where any may be.
        cacheable: Whether results are worth more than hashing the frames they come from.
        prepare: Loads what the operation needs, once; its time does not count against a call's limit.
        isolate: Run in a thread of its own under the time limit (False only for code bounded by construction).
    """

    name: str
    description: str
    arguments: type[Arguments]
    run: Run
    example: dict[str, Any] = field(default_factory=dict)
    version: str = "1"
    frames_used: Callable[[Any, int], Iterable[int]] | None = None
    cacheable: bool = True
    isolate: bool = True
    prepare: Callable[[], object] | None = None

    def schema(self) -> dict[str, Any]:
        """Name, description and JSON schema of the arguments, in the shape function-calling prompts use."""
        return {"name": self.name, "description": self.description, "parameters": self.arguments.model_json_schema()}


def operation(name: str, description: str, arguments: type[Arguments], **options: Any) -> Callable[[Run], Operation]:
    """Decorator: a function `(arguments, frames) -> OperationResult` becomes an `Operation`; options are its fields."""
    return lambda run: Operation(name, description, arguments, run, **options)


class Registry:
    """Operations by name; safe to use from several threads."""

    def __init__(self, config: OperationsConfig = TWIN_OPERATIONS, operations: Iterable[Operation] = ()) -> None:
        self.config = config
        self.faults: Counter[tuple[str, ErrorCode]] = Counter()
        """Faults of operations (not of callers) by (name, code)."""
        self._operations: dict[str, Operation] = {}
        self._cache: OrderedDict[bytes, OperationResult] = OrderedDict()
        self._cache_size = 0
        self._lock = threading.Lock()
        for item in operations:
            self.register(item)

    def register(self, item: Operation, *, override: bool = False) -> Operation:
        """Add an operation.

        Raises:
            ConfigError: its name is taken (unless `override`) or it is not an `Operation` with a usable name.
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
        self._operations[item.name] = item
        return item

    def list_operations(self) -> list[dict[str, Any]]:
        """Name, description and JSON schema of every operation, by name."""
        return [self._operations[name].schema() for name in sorted(self._operations)]

    def names(self) -> tuple[str, ...]:
        """Names of all operations, sorted."""
        return tuple(sorted(self._operations))

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
            view = Frames(frames, self.config.max_frame_pixels)
            result = self._cached(item, typed, view)
        except OperationFault as fault:
            result = failure(fault.error)
        except Exception as error:  # a lazy sequence that fails, or a plugin's frames_used
            log.warning("operation %.80r failed outside its body: %s: %.300s", name, type(error).__name__, error)
            result = failure(OperationError("internal", f"{type(error).__name__} while preparing the call."))
        if result.error is not None and result.error.code in OPERATION_FAULTS:
            with self._lock:
                self.faults[str(name)[:80], result.error.code] += 1
        return replace(result, seconds=0.0 if result.cached else time.perf_counter() - start)

    def get(self, name: str) -> Operation:
        """The operation of a name; raises OperationFault where there is none."""
        return self._find(name)

    def check(self, name: Any, arguments: Any) -> tuple[Operation, Arguments]:
        """The operation and its validated arguments; raises OperationFault where either is wrong."""
        item = self._find(name)
        return item, self._validate(item, arguments)

    def execute_many(self, calls: Iterable[tuple[Any, Any]], frames: Any) -> list[OperationResult]:
        """Run the calls of one answer in order; those beyond `max_calls` fail unexecuted."""
        limit = self.config.max_calls
        over = failure(OperationError("too_many_calls", "too many calls in one answer.", f"at most {limit} calls"))
        return [self.execute(*call, frames) if i < limit else over for i, call in enumerate(calls)]

    def _find(self, name: Any) -> Operation:
        if isinstance(name, str) and name in self._operations:
            return self._operations[name]
        shown = name[:80] if isinstance(name, str) else type(name).__name__
        near = difflib.get_close_matches(str(name)[:80].upper(), self._operations, n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise OperationFault(
            "unknown_operation", f"there is no operation {shown!r}.{hint}", "one of " + ", ".join(self.names())
        )

    def _validate(self, item: Operation, arguments: Any) -> Arguments:
        if isinstance(arguments, (str, bytes)):
            if len(arguments) > MAX_ARGUMENT_CHARS:
                raise OperationFault(
                    "too_large", f"arguments are {len(arguments)} characters long.", f"at most {MAX_ARGUMENT_CHARS}"
                )
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError) as error:
                raise OperationFault("invalid_json", f"arguments are not JSON: {error}"[:200], _usage(item)) from None
        if not isinstance(arguments, dict):
            raise OperationFault("invalid_arguments", f"arguments are a {type(arguments).__name__}.", _usage(item))
        try:
            plain = {key: tuple(v) if isinstance(v, list) else v for key, v in arguments.items()}
            return item.arguments.model_validate(plain)
        except ValidationError as error:
            lines = [
                f"{'.'.join(str(part)[:40] for part in e['loc']) or 'arguments'}: {e['msg'][:160]}"
                for e in error.errors(include_url=False, include_input=False, include_context=False)[:4]
            ]
            raise OperationFault("invalid_arguments", "; ".join(lines), _usage(item)) from None
        except (TypeError, RecursionError, OverflowError) as error:
            raise OperationFault("invalid_arguments", f"{type(error).__name__}: {error}"[:200], _usage(item)) from None

    def _cached(self, item: Operation, arguments: Arguments, frames: Frames) -> OperationResult:
        if item.frames_used is None or not item.cacheable or not self.config.cache_bytes:
            return self._limited(item, arguments, frames)
        digest = hashlib.sha256(f"{item.name}\0{item.version}\0{len(frames)}\0".encode())
        digest.update(canonical_json(arguments.model_dump(mode="json")).encode())
        for index in item.frames_used(arguments, len(frames)):
            digest.update(frame_digest(frames[index]))
        key = digest.digest()
        with self._lock:
            if (hit := self._cache.get(key)) is not None:
                self._cache.move_to_end(key)
                return replace(hit, cached=True)
        result = self._limited(item, arguments, frames)
        if result.ok:
            self._remember(key, result)
        return result

    def _remember(self, key: bytes, result: OperationResult) -> None:
        with self._lock:
            if key in self._cache:
                return
            self._cache[key] = result
            self._cache_size += _size(result)
            while self._cache_size > self.config.cache_bytes and self._cache:
                self._cache_size -= _size(self._cache.popitem(last=False)[1])

    def _limited(self, item: Operation, arguments: Arguments, frames: Frames) -> OperationResult:
        if item.prepare is not None:
            item.prepare()
        if not item.isolate:
            return self._guarded(item, arguments, frames)
        if self.faults[item.name, "timeout"] >= self.config.quarantine_after:
            raise OperationFault("quarantined", f"{item.name} hung too often and is switched off.", "another operation")
        done: list[OperationResult] = []
        worker = threading.Thread(
            target=lambda: done.append(self._guarded(item, arguments, frames)),
            name=f"operation-{item.name}",
            daemon=True,
        )
        worker.start()
        worker.join(self.config.time_limit_s)
        if not done:
            log.warning("operation %s ran over %.1f s; its thread is left behind", item.name, self.config.time_limit_s)
            raise OperationFault(
                "timeout",
                f"{item.name} took more than {self.config.time_limit_s:g} s.",
                "a smaller region or fewer frames",
            )
        return done[0]

    def _guarded(self, item: Operation, arguments: Arguments, frames: Frames) -> OperationResult:
        """Run the body; every escape becomes a failed result."""
        try:
            return self._checked(item, item.run(arguments, frames))
        except OperationFault as fault:
            return failure(fault.error)
        except BaseException as error:  # a plugin may raise anything, SystemExit and MemoryError included
            log.warning("operation %s raised", item.name, exc_info=error)
            return failure(OperationError("internal", f"{item.name} failed: {type(error).__name__}."))

    def _checked(self, item: Operation, result: Any) -> OperationResult:
        """Refuse nonsense from a plugin; cut long texts."""
        wrong = ""
        if not isinstance(result, OperationResult):
            wrong = f"a {type(result).__name__}"
        elif (
            not isinstance(result.text, str) or not isinstance(result.data, dict) or (result.error is None) != result.ok
        ):
            wrong = "a result whose text, data, ok or error is malformed"
        elif not all(isinstance(drawing, Drawing) for drawing in result.drawings):
            wrong = "drawings that are not Drawing"
        elif result.image is not None:
            image = result.image
            good = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
            if not good or image.size == 0:
                wrong = "an image that is not uint8 RGB"
            elif image.size // 3 > self.config.max_image_pixels:
                wrong = f"an image of {image.size // 3} pixels (limit {self.config.max_image_pixels})"
        if not wrong:
            try:
                canonical_json(result.data)
            except (TypeError, ValueError, RecursionError):
                wrong = "data that is not JSON"
        if wrong:
            raise OperationFault("invalid_result", f"{item.name} returned {wrong}.", "an OperationResult")
        if len(result.text) > self.config.max_text_chars:
            return replace(result, text=result.text[: self.config.max_text_chars] + " [cut]")
        return result


def default_registry(config: OperationsConfig = TWIN_OPERATIONS) -> Registry:
    """A fresh registry of the built-in operations and all plugins installed on this machine.

    A plugin that cannot be loaded or whose name is taken is left out with a logged warning and counted in `faults`.

    Args:
        config: The section a policy was trained with; the default is the twin profile's.
    """
    from components.shared.operations.built_in import built_in_operations

    registry = Registry(config, built_in_operations(config))
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda p: p.name):
        try:
            loaded = point.load()
            registry.register(loaded if isinstance(loaded, Operation) else loaded(config))
        except Exception as error:
            log.warning("operation plugin %s left out: %s: %s", point.name, type(error).__name__, error)
            registry.faults[point.name, "unavailable"] += 1
    return registry


def _usage(item: Operation) -> str:
    """What right arguments look like, in one short line."""
    known = ", ".join(name for name in item.arguments.model_fields)
    return f"like {json.dumps(item.example)} (keys: {known})" if item.example else f"an object with keys {known}"


def _size(result: OperationResult) -> int:
    """Approximate bytes a cached result holds."""
    masks = sum(d.mask.nbytes for d in result.drawings if d.mask is not None)
    return 1024 + len(result.text) + masks + (result.image.nbytes if result.image is not None else 0)

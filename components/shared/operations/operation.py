"""What an operation is, and the decorator that makes one of a function."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from components.shared.operations.arguments import Arguments
from components.shared.operations.result import OperationResult

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

    def usage(self) -> str:
        """What right arguments look like, in one short line."""
        known = ", ".join(self.arguments.model_fields)
        return f"like {json.dumps(self.example)} (keys: {known})" if self.example else f"an object with keys {known}"


def operation(name: str, description: str, arguments: type[Arguments], **options: Any) -> Callable[[Run], Operation]:
    """Decorator: a function `(arguments, frames) -> OperationResult` becomes an `Operation`; options are its fields."""
    return lambda run: Operation(name, description, arguments, run, **options)


def only_frame(arguments: Any, num_frames: int) -> Iterable[int]:
    """`frames_used` of an operation whose call touches its `frame` and no other."""
    return (arguments.frame,)

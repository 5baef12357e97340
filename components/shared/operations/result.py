"""What an operation gives back, and how it fails.

Role: the one result type of every operation. A failure is data, not an exception: it says what was wrong and what would
have been right, in words the policy can read. Operations raise `OperationFault` for their caller's mistakes; the
registry turns it, and everything else that escapes, into a result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

ErrorCode = Literal[
    "unknown_operation",
    "invalid_json",
    "invalid_arguments",
    "invalid_frames",
    "frame_out_of_range",
    "crop_too_small",
    "too_large",
    "too_many_calls",
    "timeout",
    "quarantined",
    "unavailable",
    "nothing_found",
    "invalid_result",
    "internal",
]
"""`internal`, `timeout`, `invalid_result` and `quarantined` are the operation's fault; the others are the caller's."""

OPERATION_FAULTS: frozenset[str] = frozenset({"internal", "timeout", "invalid_result", "quarantined"})


@dataclass(frozen=True)
class OperationError:
    """Why a call failed: `message` what was wrong, `expected` what would be right."""

    code: ErrorCode
    message: str
    expected: str = ""


class OperationFault(Exception):
    """Raised inside an operation for a call that cannot be served; the registry turns it into a failed result."""

    def __init__(self, code: ErrorCode, message: str, expected: str = "") -> None:
        super().__init__(message)
        self.error = OperationError(code, message, expected)


@dataclass(frozen=True)
class Drawing:
    """One thing to draw for people: a box and/or a mask on a frame.

    Attributes:
        frame: Index of the frame it belongs to.
        box: (x0, y0, x1, y1) in source pixels, x1 and y1 exclusive.
        mask: bool (height, width) at source resolution.
        label: A few words beside it.
    """

    frame: int
    box: tuple[int, int, int, int] | None = None
    mask: np.ndarray | None = field(default=None, repr=False, compare=False)
    label: str = ""


@dataclass(frozen=True)
class OperationResult:
    """What one call gave.

    Attributes:
        ok: False where `error` is set.
        text: What the policy reads; on failure the error in one line.
        image: uint8 RGB (height, width, 3) shown to the policy, or None.
        data: Measured values, JSON types only (boxes in thousandths of the frame).
        drawings: Boxes and masks for reports.
        error: Set on failure.
        seconds: Time the call took; 0 where it came from the cache.
        cached: True where no pixel was touched.
    """

    ok: bool
    text: str = ""
    image: np.ndarray | None = field(default=None, repr=False, compare=False)
    data: dict[str, Any] = field(default_factory=dict)
    drawings: tuple[Drawing, ...] = ()
    error: OperationError | None = None
    seconds: float = field(default=0.0, compare=False)
    cached: bool = field(default=False, compare=False)


def failure(error: OperationError, seconds: float = 0.0) -> OperationResult:
    """The failed result of an error, with a line the policy can read."""
    text = f"error {error.code}: {error.message}" + (f" Expected: {error.expected}" if error.expected else "")
    return OperationResult(False, text[:1000], error=error, seconds=seconds)

"""The frames an operation sees: checked when touched, read-only, never copied.

Role: wraps the caller's sequence (list of arrays, or a lazy sequence that decodes on access) so that an operation
cannot change the caller's pixels, and a missing or malformed frame becomes a structured error.
Also the conversion between thousandths of the frame and pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from components.shared.operations.result import OperationFault

Box = tuple[int, int, int, int]


class Frames(Sequence[np.ndarray]):
    """Read-only view of a sequence of uint8 RGB frames (height, width, 3).

    Args:
        source: Any object with `len` and integer indexing.
        max_pixels: Frames with more pixels are refused.
    """

    def __init__(self, source: Any, max_pixels: int = 64_000_000) -> None:
        self._source, self._max_pixels = source, max_pixels
        try:
            self._length = len(source)
        except TypeError:
            raise OperationFault(
                "invalid_frames", f"frames are a {type(source).__name__}.", "a sequence of uint8 RGB arrays"
            ) from None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        """Frame `index`; raises OperationFault where it is missing, not uint8 RGB, empty or too large."""
        if not 0 <= index < self._length:
            valid = f"a frame index from 0 to {self._length - 1}" if self._length else "at least one frame"
            raise OperationFault("frame_out_of_range", f"frame {index} does not exist.", valid)
        frame = self._source[index]
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            shape = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise OperationFault(
                "invalid_frames", f"frame {index} is {shape}.", "uint8 RGB of shape (height, width, 3)"
            )
        height, width = frame.shape[:2]
        if height * width == 0:
            raise OperationFault("invalid_frames", f"frame {index} is empty ({width}x{height}).", "a frame with pixels")
        if height * width > self._max_pixels:
            raise OperationFault(
                "too_large", f"frame {index} has {height * width} pixels.", f"at most {self._max_pixels} pixels"
            )
        view = frame.view()
        view.flags.writeable = False
        return view


def frame_digest(frame: np.ndarray) -> bytes:
    """sha256 over a frame's shape and pixels."""
    digest = hashlib.sha256(repr(frame.shape).encode())
    digest.update(np.ascontiguousarray(frame).data)
    return digest.digest()


def to_pixels(box: Sequence[float], width: int, height: int) -> Box:
    """Smallest pixel box that covers a box in thousandths; at least one pixel, inside the frame.

    Rounding error of the product is taken out first, so that 250 of 448 is 112, never 113.
    """
    x0, y0, x1, y1 = box
    left, top = int(np.floor(round(x0 * width / 1000, 6))), int(np.floor(round(y0 * height / 1000, 6)))
    right, bottom = int(np.ceil(round(x1 * width / 1000, 6))), int(np.ceil(round(y1 * height / 1000, 6)))
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return left, top, min(max(right, left + 1), width), min(max(bottom, top + 1), height)


def to_thousandths(box: Sequence[float], width: int, height: int) -> Box:
    """A pixel box in rounded thousandths of the frame."""
    x0, y0, x1, y1 = box
    return round(x0 * 1000 / width), round(y0 * 1000 / height), round(x1 * 1000 / width), round(y1 * 1000 / height)

"""A decoded frame on the normalised time grid, whichever decoder it came from.

A frame keeps what the decoder gave (planar YUV) and converts only when asked: most frames are only measured on their
luma, few become pictures.
"""

from __future__ import annotations

from typing import Any, Protocol

import cv2
import numpy as np


class Frame(Protocol):
    """One frame; pixels are converted when asked for and not kept."""

    index: int
    """Position on the normalised grid: it is shown at index / fps seconds."""

    def luma(self) -> np.ndarray:
        """Brightness, uint8 (height, width)."""
        ...

    def bgr(self) -> np.ndarray:
        """Colour as OpenCV wants it, uint8 (height, width, 3)."""
        ...


class AvFrame:
    """A frame held by PyAV."""

    def __init__(self, index: int, frame: Any, quarter_turns: int = 0) -> None:
        self.index, self.frame, self.quarter_turns = index, frame, quarter_turns

    def luma(self) -> np.ndarray:
        """Brightness: the Y plane as it is (studio range stays studio range)."""
        frame = self.frame
        if not frame.format.name.startswith(("yuv", "gray", "nv")) or frame.format.name.endswith(("le", "be")):
            return turn(frame.to_ndarray(format="gray"), self.quarter_turns)
        return turn(plane(frame.planes[0]), self.quarter_turns)

    def bgr(self) -> np.ndarray:
        """Colour: OpenCV's converter where the frame is plain 4:2:0 BT.601, swscale otherwise."""
        frame = self.frame
        plain = frame.format.name == "yuv420p" and frame.colorspace in (2, 5, 6) and frame.color_range in (0, 1)
        if plain and frame.width % 2 == 0 and frame.height % 2 == 0:
            packed = np.concatenate([plane(item).reshape(-1) for item in frame.planes])
            image = cv2.cvtColor(packed.reshape(frame.height * 3 // 2, frame.width), cv2.COLOR_YUV2BGR_I420)
        else:
            image = frame.to_ndarray(format="bgr24")
        return turn(image, self.quarter_turns)


class I420Frame:
    """A frame as raw planar 4:2:0 bytes, BT.601 studio range (what our FFmpeg pipe delivers)."""

    def __init__(self, index: int, data: bytes, width: int, height: int) -> None:
        self.index, self.width, self.height = index, width, height
        self.packed = np.frombuffer(data, np.uint8).reshape(height * 3 // 2, width)

    def luma(self) -> np.ndarray:
        """Brightness: the Y plane."""
        return self.packed[: self.height]

    def bgr(self) -> np.ndarray:
        """Colour."""
        return cv2.cvtColor(self.packed, cv2.COLOR_YUV2BGR_I420)


class RepeatedFrame:
    """Another frame shown again at a later index."""

    def __init__(self, index: int, frame: Frame) -> None:
        self.index, self.frame = index, frame

    def luma(self) -> np.ndarray:
        """Brightness of the frame shown."""
        return self.frame.luma()

    def bgr(self) -> np.ndarray:
        """Colour of the frame shown."""
        return self.frame.bgr()


def plane(item: Any) -> np.ndarray:
    """A PyAV plane as uint8 (height, width), without its line padding."""
    return np.frombuffer(item, np.uint8).reshape(item.height, item.line_size)[:, : item.width]


def turn(image: np.ndarray, quarter_turns: int) -> np.ndarray:
    """Rotate by quarter turns counterclockwise; no copy where there is nothing to turn."""
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image

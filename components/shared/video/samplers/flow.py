"""Frames in which much moves: mean magnitude of dense optical flow (Farneback 2003, OpenCV's implementation).

The flow is computed on frames shrunk to 80 pixels of width: dense flow at full size costs more than decoding.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from components.shared.video.samplers.interface import FrameSampler

WIDTH = 80


class FlowSampler(FrameSampler):
    """Mean flow magnitude in source pixels a frame, smoothed, greedily chosen."""

    name = "flow"
    relative = True

    def __init__(self, min_gap: int = 5) -> None:
        super().__init__(min_gap)
        self._last: tuple[Any, np.ndarray] | None = None

    def measure(self, luma: np.ndarray, previous: np.ndarray | None) -> float:
        """Mean magnitude in source pixels, 0 for the first frame."""
        small = shrink(luma)
        before = None
        if previous is not None:
            kept = self._last
            before = kept[1] if kept is not None and kept[0] is previous else shrink(previous)
        self._last = (luma, small)
        if before is None:
            return 0.0
        flow: Any = None
        flow = cv2.calcOpticalFlowFarneback(before, small, flow, 0.5, 2, 9, 2, 5, 1.1, 0)
        scale = luma.shape[1] / small.shape[1]
        return float(np.hypot(flow[..., 0], flow[..., 1]).mean() * scale)


def shrink(luma: np.ndarray) -> np.ndarray:
    """uint8 (height, width) at 80 pixels of width, or as it is where smaller."""
    height, width = luma.shape
    if width <= WIDTH:
        return luma
    return cv2.resize(luma, (WIDTH, max(1, round(height * WIDTH / width))), interpolation=cv2.INTER_AREA)

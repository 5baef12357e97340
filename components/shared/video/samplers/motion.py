"""Frames that differ from the one before: entropy of the absolute difference."""

from __future__ import annotations

import cv2
import numpy as np

from components.shared.video.samplers.entropy import grey_entropy
from components.shared.video.samplers.interface import FrameSampler


class MotionSampler(FrameSampler):
    """Entropy of frame differences, smoothed, greedily chosen."""

    name = "motion"
    relative = True

    def measure(self, luma: np.ndarray, previous: np.ndarray | None) -> float:
        """Entropy in bits of |luma - previous|, 0 for the first frame."""
        return 0.0 if previous is None else grey_entropy(cv2.absdiff(luma, previous))

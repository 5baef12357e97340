"""Evenly spaced frames: what every other sampler is judged against."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from components.shared.runtime.errors import InputError
from components.shared.video.samplers.interface import BoundaryBoost, FrameSampler
from components.shared.video.samplers.selection import Selection


class UniformSampler(FrameSampler):
    """Frame 0, the last one, and evenly spaced ones between (rounded to whole frames)."""

    name = "uniform"
    looks = False

    def measure(self, luma: np.ndarray, previous: np.ndarray | None) -> float:
        """Nothing to measure."""
        return 0.0

    def select(
        self,
        raw: Sequence[float] | np.ndarray,
        num_frames: int,
        *,
        fps: float = 25.0,
        boost: BoundaryBoost | None = None,
    ) -> Selection:
        """Choose by position alone; a boost has nothing to act on."""
        return select_evenly(len(raw), num_frames)


def select_evenly(total: int, num_frames: int) -> Selection:
    """round(i * (total - 1) / (num_frames - 1)); all frames where there are fewer than asked for.

    Raises:
        InputError: no frames, or fewer than one asked for.
    """
    if total == 0 or num_frames < 1:
        raise InputError(f"{num_frames} frames cannot be chosen from a window of {total}.")
    count = min(total, num_frames)
    indices = [round(i * (total - 1) / max(count - 1, 1)) for i in range(count)]
    gap = min((b - a for a, b in itertools.pairwise(indices)), default=total)
    return Selection(tuple(indices), gap)

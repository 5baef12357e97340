"""Frames whose brightness histogram is rich: H(t) = -sum p log2 p over 256 grey levels.

Known limit (REFERENCES.md): a histogram ignores where pixels are, so it cannot see motion; the sampler report says
whether it finds boundaries better than even spacing does.
"""

from __future__ import annotations

import numpy as np

from components.shared.video.samplers.interface import FrameSampler


class EntropySampler(FrameSampler):
    """Entropy of the grey histogram, smoothed, greedily chosen."""

    name = "entropy"

    def measure(self, luma: np.ndarray, previous: np.ndarray | None) -> float:
        """Entropy in bits, 0..8."""
        return grey_entropy(luma)


def grey_entropy(image: np.ndarray) -> float:
    """Entropy in bits of the 256-bin histogram of uint8 (height, width); Pillow's C code, without copying."""
    from PIL import Image

    height, width = image.shape
    return Image.frombuffer("L", (width, height), np.ascontiguousarray(image), "raw", "L", 0, 1).entropy()

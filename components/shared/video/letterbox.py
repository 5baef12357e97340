"""Letterbox geometry: how a source frame sits inside the policy's square view.

Boxes that operations take are thousandths of the *source* frame; what the policy sees is the view.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from components.shared.runtime.errors import InputError


@dataclass(frozen=True)
class Letterbox:
    """Placement of a `width` x `height` source in a `size` x `size` view: `fit` pixels of it, the rest black bars."""

    width: int
    height: int
    size: int

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.size) < 1:
            raise InputError(f"a {self.width}x{self.height} frame cannot be shown in a view of {self.size} pixels.")

    @property
    def fit(self) -> tuple[int, int]:
        """Width and height of the source inside the view, pixels."""
        scale = self.size / max(self.width, self.height)
        return max(1, round(self.width * scale)), max(1, round(self.height * scale))

    @property
    def offset(self) -> tuple[int, int]:
        """Left and top bar, pixels."""
        width, height = self.fit
        return (self.size - width) // 2, (self.size - height) // 2

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Shrink (area average) or enlarge uint8 (height, width, channels) into the view (size, size, channels)."""
        (width, height), (left, top) = self.fit, self.offset
        shrink = width <= image.shape[1] and height <= image.shape[0]
        view = np.zeros((self.size, self.size, *image.shape[2:]), np.uint8)
        view[top : top + height, left : left + width] = cv2.resize(
            image, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
        )
        return view

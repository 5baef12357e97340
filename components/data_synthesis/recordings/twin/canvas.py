"""Fast drawing in design pixels onto a BGR picture of any size.

Guarantee: integer rasterisation without anti-aliasing, so the same calls give the same bytes on every machine.
"""

from __future__ import annotations

import cv2
import numpy as np

from components.data_synthesis.recordings.twin.appearance import DESIGN, Colour, Point

_SUB = 3
"""Fractional bits of ends and centres: movement by less than a pixel is visible."""


class Canvas:
    """A picture with a scale; `pixels` may be swapped between frames.

    Attributes:
        pixels: uint8 BGR (height, width, 3).
    """

    def __init__(self, width: int, height: int) -> None:
        self.pixels = np.zeros((height, width, 3), np.uint8)
        self.sx, self.sy = width / DESIGN[0], height / DESIGN[1]

    def rect(self, centre: Point, width: float, height: float, colour: Colour) -> None:
        """Fill an upright rectangle."""
        x0, x1 = round((centre[0] - width / 2) * self.sx), round((centre[0] + width / 2) * self.sx)
        y0, y1 = round((centre[1] - height / 2) * self.sy), round((centre[1] + height / 2) * self.sy)
        if x1 > x0 and y1 > y0:
            cv2.rectangle(self.pixels, (x0, y0), (x1 - 1, y1 - 1), colour, cv2.FILLED)

    def line(self, start: Point, end: Point, thickness: float, colour: Colour) -> None:
        """A straight line with round ends."""
        scale = 1 << _SUB
        first = (round(start[0] * self.sx * scale), round(start[1] * self.sy * scale))
        last = (round(end[0] * self.sx * scale), round(end[1] * self.sy * scale))
        cv2.line(self.pixels, first, last, colour, max(1, round(thickness * self.sx)), cv2.LINE_8, _SUB)

    def disc(self, centre: Point, radius: float, colour: Colour) -> None:
        """Fill a circle."""
        scale = 1 << _SUB
        at = (round(centre[0] * self.sx * scale), round(centre[1] * self.sy * scale))
        cv2.circle(self.pixels, at, round(radius * self.sx * scale), colour, -1, cv2.LINE_8, _SUB)

    def blit(self, patch: np.ndarray, centre: Point) -> None:
        """Paste an opaque picture (h, w, 3) around a point, clipped at the edges."""
        h, w = patch.shape[:2]
        x, y = round(centre[0] * self.sx) - w // 2, round(centre[1] * self.sy) - h // 2
        height, width = self.pixels.shape[:2]
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        if x1 > x0 and y1 > y0:
            self.pixels[y0:y1, x0:x1] = patch[y0 - y : y1 - y, x0 - x : x1 - x]

    def bounds(self, centre: Point, width: float, height: float) -> tuple[int, int, int, int] | None:
        """Pixel box of an upright rectangle, clipped; None when outside the picture."""
        x0, x1 = round((centre[0] - width / 2) * self.sx), round((centre[0] + width / 2) * self.sx)
        y0, y1 = round((centre[1] - height / 2) * self.sy), round((centre[1] + height / 2) * self.sy)
        limit_y, limit_x = self.pixels.shape[:2]
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, limit_x), min(y1, limit_y)
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def text_label(text: str, width: int, height: int, colour: Colour, scale: float) -> np.ndarray:
    """A printed label: text readable at source resolution on a plain ground, uint8 BGR (height, width, 3)."""
    label = np.empty((height, width, 3), np.uint8)
    label[:] = colour
    size, _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    at = (max((width - size[0]) // 2, 1), (height + size[1]) // 2)
    cv2.putText(label, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (25, 25, 25), 1, cv2.LINE_8)
    return label


def barcode(width: int, height: int, bits: np.ndarray, colour: Colour) -> np.ndarray:
    """Bars of a printed barcode, uint8 BGR (height, width, 3)."""
    label = np.empty((height, width, 3), np.uint8)
    label[:] = colour
    bars = np.resize(bits, width - 4).astype(bool)
    label[2:-2, 2:-2][:, bars] = (30, 30, 30)
    return label

"""Names of colours: the eleven basic terms of Berlin and Kay (1969), told from hue (HSV), lightness and chroma (Lab).

The borders are set by hand so that the CSS colours whose own names contain a basic term get that term (a test holds the
list). Not guaranteed: the light's colour is not estimated, so a white sheet under a red lamp is called pink.
"""

from __future__ import annotations

import cv2
import numpy as np

NAMES = ("black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
BLACK, WHITE, GREY, RED, ORANGE, YELLOW, GREEN, BLUE, PURPLE, PINK, BROWN = range(len(NAMES))


def name_pixels(pixels: np.ndarray) -> np.ndarray:
    """Index into NAMES of each colour; uint8 RGB (..., 3) -> uint8 (...)."""
    shape = pixels.shape[:-1]
    scaled = np.ascontiguousarray(pixels.reshape(1, -1, 3)).astype(np.float32) / 255
    lab = cv2.cvtColor(scaled, cv2.COLOR_RGB2LAB)[0]
    hue = cv2.cvtColor(scaled, cv2.COLOR_RGB2HSV)[0, :, 0]
    light, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    conditions = [
        (light < 9) | ((light < 22) & (chroma < 9)),
        (chroma < 9) & (light >= 85) | (chroma < 14) & (light >= 93),
        (chroma < 10) | ((chroma < 14) & (light < 60)),
        (hue < 12) & (light >= 66) | (hue >= 345) & (light >= 60),
        ((hue < 12) | (hue >= 345)) & ((light < 38) & (chroma < 38) | (light < 62) & (chroma < 24)),
        (hue < 12) | (hue >= 345),
        (hue < 46) & (light >= 57) & (chroma >= 52),
        (hue < 42),
        (hue < 68) & (light >= 60),
        (hue < 52),
        (hue < 178),
        (hue < 256),
        (hue < 290),
        (hue < 318) & (light < 62),
        (hue >= 318) & (light < 38),
    ]
    chosen = [
        BLACK, WHITE, GREY, PINK, BROWN, RED, ORANGE, BROWN, YELLOW, BROWN, GREEN, BLUE, PURPLE, PURPLE, PURPLE,
    ]  # fmt: skip
    return np.select(conditions, chosen, default=PINK).astype(np.uint8).reshape(shape)


def dominant_colours(pixels: np.ndarray, limit: int = 3, least_share: float = 0.1) -> list[tuple[str, float]]:
    """The most frequent names with their shares of the pixels; (n, 3) uint8 -> at least one, at most `limit`."""
    counts = np.bincount(name_pixels(pixels).ravel(), minlength=len(NAMES)) / max(len(pixels), 1)
    order = np.argsort(-counts, kind="stable")
    return [(NAMES[i], round(float(counts[i]), 3)) for i in order[:limit] if counts[i] >= least_share or i == order[0]]

"""Names of colours: the eleven basic terms, told from colours that people have named (colour_samples.py).

Method: every named sample votes for its name with a weight that falls with its CIEDE2000 difference to the colour as a
Gaussian of `REACH`; the name with most votes wins. Colours are told apart in steps of eight levels a channel, each step
computed once a process.
Guarantees: every colour has a name; the same colour has the same name everywhere.
Not guaranteed: what a person who knows the thing would say. The light is not estimated, so a white cat in the shade is
grey and a white sheet under a red lamp is pink. Of the tests' 38 hand-checked regions of real pictures 35 get a
person's name. Tried before: borders in hue and lightness set by hand (31 of 38, ripe orange called brown), the nearest
ISCC-NBS centroid alone (34, but pure red is called orange), the nearest xkcd colour alone (31).
"""

from __future__ import annotations

import functools

import cv2
import numpy as np

from components.shared.operations.colour_difference import ciede2000
from components.shared.operations.colour_samples import NAMES, named_samples

REACH = 5.0
"""Standard deviation of the votes' weight in CIEDE2000 units (3, 4 and 6 do almost as well)."""
SHIFT = 3
"""Bits dropped of each channel."""
CELLS = 1 << (8 - SHIFT)
UNKNOWN = 255


def name_pixels(pixels: np.ndarray) -> np.ndarray:
    """Index into NAMES of each colour; uint8 RGB (..., 3) -> uint8 (...)."""
    cells = (pixels >> SHIFT).astype(np.intp)
    flat = (cells[..., 0] * CELLS + cells[..., 1]) * CELLS + cells[..., 2]
    table = name_table()
    missing = np.unique(flat[table[flat] == UNKNOWN])
    if len(missing):
        table[missing] = name_cells(missing)
    names: np.ndarray = table[flat]
    return names


@functools.lru_cache(maxsize=1)
def name_table() -> np.ndarray:
    """The names of all cells, filled as they are asked for; concurrent fillers write the same values."""
    return np.full(CELLS**3, UNKNOWN, np.uint8)


def name_cells(cells: np.ndarray) -> np.ndarray:
    """Names of cells, (n,) -> uint8 (n,)."""
    levels = np.stack([cells // CELLS**2, cells // CELLS % CELLS, cells % CELLS], axis=1)
    samples, names = named_samples()
    chosen = np.empty(len(cells), np.uint8)
    for start in range(0, len(cells), 256):  # bounds memory: 256 cells by some 1000 samples
        middle = (levels[start : start + 256] << SHIFT) + (1 << (SHIFT - 1))
        differences = ciede2000(to_lab(middle)[:, None], to_lab(samples)[None])
        nearest = differences.min(axis=1, keepdims=True)
        weights = np.exp((nearest**2 - differences**2) / (2 * REACH**2))  # relative to the nearest: never all zero
        votes = weights @ np.eye(len(NAMES))[names]
        chosen[start : start + 256] = votes.argmax(axis=1)
    return chosen


def to_lab(colours: np.ndarray) -> np.ndarray:
    """CIELAB (n, 3) of sRGB levels (n, 3)."""
    scaled = (np.asarray(colours, np.float32) / 255)[None]
    return np.asarray(cv2.cvtColor(scaled, cv2.COLOR_RGB2LAB)[0], np.float64)


def dominant_colours(pixels: np.ndarray, limit: int = 3, least_share: float = 0.1) -> list[tuple[str, float]]:
    """The most frequent names with their shares of the pixels; (n, 3) uint8 -> at least one, at most `limit`."""
    counts = np.bincount(name_pixels(pixels).ravel(), minlength=len(NAMES)) / max(len(pixels), 1)
    order = np.argsort(-counts, kind="stable")
    return [(NAMES[i], round(float(counts[i]), 3)) for i in order[:limit] if counts[i] >= least_share or i == order[0]]

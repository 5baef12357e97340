"""CIEDE2000: how different two colours look (Sharma, Wu, Dalal 2005, whose notation and test pairs are used)."""

from __future__ import annotations

import numpy as np


def ciede2000(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Colour difference of CIELAB values (..., 3), broadcast against each other; float64 (...)."""
    l1, a1, b1 = np.moveaxis(np.asarray(first, np.float64), -1, 0)
    l2, a2, b2 = np.moveaxis(np.asarray(second, np.float64), -1, 0)
    mean_chroma = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1 + 0.5 * (1 - np.sqrt(mean_chroma**7 / (mean_chroma**7 + 25.0**7)))
    a1, a2 = a1 * stretch, a2 * stretch
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360
    no_hue = c1 * c2 == 0
    turn = np.where(no_hue, 0.0, (h2 - h1 + 180) % 360 - 180)
    difference_l, difference_c = l2 - l1, c2 - c1
    difference_h = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    hue = np.where(no_hue, h1 + h2, h1 + turn / 2) % 360
    cosines = (
        1 - 0.17 * cosine(hue - 30) + 0.24 * cosine(2 * hue) + 0.32 * cosine(3 * hue + 6) - 0.2 * cosine(4 * hue - 63)
    )
    scale_l = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    scale_c, scale_h = 1 + 0.045 * chroma, 1 + 0.015 * chroma * cosines
    rotation = (
        -2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7)) * np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))
    )
    part_l, part_c, part_h = difference_l / scale_l, difference_c / scale_c, difference_h / scale_h
    total: np.ndarray = np.sqrt(np.maximum(part_l**2 + part_c**2 + part_h**2 + rotation * part_c * part_h, 0))
    return total


def cosine(degrees: np.ndarray) -> np.ndarray:
    """Cosine of an angle in degrees."""
    found: np.ndarray = np.cos(np.radians(degrees))
    return found

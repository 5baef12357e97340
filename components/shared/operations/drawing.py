"""Pictures for people: a result's boxes and masks on the frame, its image and its text beside it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import cv2
import numpy as np

from components.shared.operations.result import Drawing, OperationResult

COLOURS = ((230, 60, 60), (40, 140, 240), (40, 180, 90), (240, 160, 30), (170, 80, 210))
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(frame: np.ndarray, drawings: Sequence[Drawing]) -> np.ndarray:
    """A copy of uint8 RGB (height, width, 3) with masks tinted, boxes outlined and labels written."""
    picture = np.ascontiguousarray(frame).copy()
    thick = max(1, round(max(frame.shape[:2]) / 320))
    for number, item in enumerate(drawings):
        colour = COLOURS[number % len(COLOURS)]
        if item.mask is not None:
            picture[item.mask] = (0.5 * picture[item.mask] + 0.5 * np.array(colour)).astype(np.uint8)
        if item.box is not None:
            x0, y0, x1, y1 = item.box
            cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), colour, thick)
            if item.label:
                scale = 0.4 * thick
                place = (x0 + 2, max(y0 - 3, round(12 * thick)))
                text = item.label.encode("ascii", "replace").decode()[:40]
                cv2.putText(picture, text, place, FONT, scale, (0, 0, 0), thick + 2, cv2.LINE_AA)
                cv2.putText(picture, text, place, FONT, scale, colour, thick, cv2.LINE_AA)
    return picture


def draw_result(frames: Sequence[np.ndarray], result: OperationResult, *, width: int = 480) -> np.ndarray:
    """One picture of a result: its frames with drawings (first, middle and last of many), its image, its text.

    Returns:
        uint8 RGB (height, any width, 3).
    """
    touched = sorted({item.frame for item in result.drawings}) or [0]
    if len(touched) > 3:
        touched = [touched[0], touched[len(touched) // 2], touched[-1]]
    panels = [draw(frames[index], [d for d in result.drawings if d.frame == index]) for index in touched]
    if result.image is not None:
        panels.append(result.image)
    height = round(width * 3 / 4)
    scaled = [fit(panel, width, height) for panel in panels]
    strip = np.concatenate(scaled, axis=1)
    return np.concatenate([strip, caption(result.text, strip.shape[1])], axis=0)


def fit(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """An image scaled into a white panel of a size."""
    scale = min(width / image.shape[1], height / image.shape[0])
    size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
    panel = np.full((height, width, 3), 255, np.uint8)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    panel[: size[1], : size[0]] = cv2.resize(np.ascontiguousarray(image), size, interpolation=method)
    return panel


def caption(text: str, width: int) -> np.ndarray:
    """Text in black on white, wrapped, at most three lines."""
    lines = textwrap.wrap(text.encode("ascii", "replace").decode(), max(width // 8, 10))[:3] or [""]
    panel = np.full((20 * len(lines) + 10, width, 3), 255, np.uint8)
    for number, line in enumerate(lines):
        cv2.putText(panel, line, (6, 20 + 20 * number), FONT, 0.45, (20, 20, 20), 1, cv2.LINE_AA)
    return panel

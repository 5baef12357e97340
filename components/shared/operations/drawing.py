"""Pictures for people: a result's boxes and masks on the frame, a close view where they are small, its image, its text.

Frames are scaled first and drawn on afterwards, so that lines and letters have the same size in every picture.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import cv2
import numpy as np

from components.shared.operations.frames import Box
from components.shared.operations.result import Drawing, OperationResult

COLOURS = ((230, 60, 60), (40, 140, 240), (40, 180, 90), (240, 160, 30), (170, 80, 210))
FONT, LETTERS = cv2.FONT_HERSHEY_SIMPLEX, 0.45
SMALL = 0.2
"""What fills less than this share of its frame is also shown closer."""
CONTEXT = 0.3
"""Border of a close view as a share of what it shows."""
LEAST_SIDE = 48
"""Smallest side of a close view in source pixels."""


def panel(
    frame: np.ndarray,
    drawings: Sequence[Drawing],
    width: int,
    height: int,
    *,
    view: Box | None = None,
    labels: bool = True,
) -> np.ndarray:
    """A frame, or a view of it, scaled to fit a size, with masks tinted, boxes outlined and labels written.

    Args:
        frame: uint8 RGB (rows, columns, 3).
        drawings: What to draw, in the frame's pixels.
        width: Most columns of the picture.
        height: Most rows.
        view: Part of the frame to show, all of it where None.
        labels: Whether to write the drawings' labels.
    """
    x0, y0, x1, y1 = view or (0, 0, frame.shape[1], frame.shape[0])
    scale = min(width / (x1 - x0), height / (y1 - y0))
    size = (max(round((x1 - x0) * scale), 1), max(round((y1 - y0) * scale), 1))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    picture = cv2.resize(np.ascontiguousarray(frame[y0:y1, x0:x1]), size, interpolation=method)
    for number, item in enumerate(drawings):
        if item.mask is not None:
            part = cv2.resize(item.mask[y0:y1, x0:x1].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
            picture[part] = (0.5 * picture[part] + 0.5 * np.array(COLOURS[number % len(COLOURS)])).astype(np.uint8)
    for number, item in enumerate(drawings):
        if item.box is not None:
            left, top = round((item.box[0] - x0) * scale), round((item.box[1] - y0) * scale)
            right, bottom = round((item.box[2] - x0) * scale) - 1, round((item.box[3] - y0) * scale) - 1
            cv2.rectangle(picture, (left, top), (right, bottom), COLOURS[number % len(COLOURS)], 2)
            write_label(picture, item.label if labels else "", left, top, bottom, COLOURS[number % len(COLOURS)])
    return picture


def write_label(
    picture: np.ndarray, label: str, left: int, top: int, bottom: int, colour: tuple[int, int, int]
) -> None:
    """A label above its box, below it where there is no room, on a plate of the box's colour."""
    text = label.encode("ascii", "replace").decode()[:40]
    if not text:
        return
    (width, height), _ = cv2.getTextSize(text, FONT, LETTERS, 1)
    foot = top - 4 if top - height - 8 >= 0 else bottom + height + 6
    foot = min(max(foot, height + 4), picture.shape[0] - 4)
    start = min(max(left, 0), max(picture.shape[1] - width - 4, 0))
    cv2.rectangle(picture, (start, foot - height - 4), (start + width + 4, foot + 4), colour, cv2.FILLED)
    cv2.putText(picture, text, (start + 2, foot), FONT, LETTERS, (255, 255, 255), 1, cv2.LINE_AA)


def close_view(frame: np.ndarray, drawings: Sequence[Drawing]) -> Box | None:
    """The part of a frame around its drawings, None where they fill enough of it to be seen."""
    boxes = np.array([item.box for item in drawings if item.box is not None])
    if not len(boxes):
        return None
    (x0, y0), (x1, y1) = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    rows, columns = frame.shape[:2]
    if (x1 - x0) * (y1 - y0) >= SMALL * rows * columns:
        return None
    dx, dy = max((x1 - x0) * CONTEXT, (LEAST_SIDE - x1 + x0) / 2), max((y1 - y0) * CONTEXT, (LEAST_SIDE - y1 + y0) / 2)
    return max(int(x0 - dx), 0), max(int(y0 - dy), 0), min(int(x1 + dx), columns), min(int(y1 + dy), rows)


def draw_result(frames: Sequence[np.ndarray], result: OperationResult, *, width: int = 480) -> np.ndarray:
    """One picture of a result: its frames with drawings (first, middle and last of many), a close view, image and text.

    Returns:
        uint8 RGB (any height, panels times width, 3).
    """
    height = round(width * 3 / 4)
    touched = sorted({item.frame for item in result.drawings}) or [0]
    if len(touched) > 3:
        touched = [touched[0], touched[len(touched) // 2], touched[-1]]
    panels = []
    for index in touched:
        drawings = [item for item in result.drawings if item.frame == index]
        alone = len(touched) == 1 and result.image is None
        view = close_view(frames[index], drawings) if alone else None
        panels.append(panel(frames[index], drawings, width, height, labels=view is None))
        if view is not None:
            panels.append(panel(frames[index], drawings, width, height, view=view))
    if result.image is not None:
        panels.append(panel(result.image, (), width, height))
    strip = np.full((max(part.shape[0] for part in panels), width * len(panels), 3), 255, np.uint8)
    for number, part in enumerate(panels):
        strip[: part.shape[0], number * width : number * width + part.shape[1]] = part
    return np.concatenate([strip, caption(result.text, strip.shape[1])], axis=0)


def caption(text: str, width: int) -> np.ndarray:
    """Text in black on white, wrapped, at most three lines; dots where more would follow."""
    ascii_text = text.encode("ascii", "replace").decode()
    lines = textwrap.wrap(ascii_text, max(width // 9, 10), max_lines=3, placeholder=" ...") or [""]
    picture = np.full((20 * len(lines) + 10, width, 3), 255, np.uint8)
    for number, line in enumerate(lines):
        cv2.putText(picture, line, (6, 20 + 20 * number), FONT, LETTERS, (20, 20, 20), 1, cv2.LINE_AA)
    return picture

"""Where the evidence is: grid cells, motion, and whether a crop really supports an answer.

Pure functions on arrays and boxes in thousandths of the source frame.
Ablation without a model: a crop counts as evidence only when taking it away takes the information away. For a close-up
that is the fine detail (gradient energy) that the crop holds and the policy's own view of the same place does not; for
work in progress it is the share of the motion that falls into the cell. Both are measured on the clip's own pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

BoxInt = tuple[int, int, int, int]


def cell_box(column: int, row: int, grid: int) -> BoxInt:
    """A grid cell in thousandths, ends rounded (multiples of 250 for a grid of 4)."""
    left, top, right, bottom = (round(1000 * k / grid) for k in (column, row, column + 1, row + 1))
    return left, top, right, bottom


def cell_of(box: Sequence[float], grid: int) -> tuple[int, int] | None:
    """(column, row) of the cell that holds a box whole, None where it straddles two (half a thousandth is forgiven)."""
    column = min(int((box[0] + box[2]) / 2 * grid / 1000), grid - 1)
    row = min(int((box[1] + box[3]) / 2 * grid / 1000), grid - 1)
    left, top, right, bottom = cell_box(column, row, grid)
    inside = box[0] >= left - 0.5 and box[1] >= top - 0.5 and box[2] <= right + 0.5 and box[3] <= bottom + 0.5
    return (column, row) if inside else None


def content_area(size: int, width: int, height: int) -> BoxInt:
    """Where a letterboxed source frame lies in its square view, in view pixels."""
    scale = size / max(width, height)
    inner_width, inner_height = max(round(width * scale), 1), max(round(height * scale), 1)
    left, top = (size - inner_width) // 2, (size - inner_height) // 2
    return left, top, left + inner_width, top + inner_height


def motion_cells(view: np.ndarray, width: int, height: int, grid: int) -> np.ndarray:
    """Motion energy by frame and cell.

    Args:
        view: The policy's frames, uint8 (frames, size, size, 3).
        width: Source width in pixels.
        height: Source height in pixels.
        grid: Cells a side.

    Returns:
        float64 (frames, grid, grid), [frame, row, column]: mean squared difference of grey levels to the frames before
        and after, sensor noise (the median over the frame) taken off.
    """
    left, top, right, bottom = content_area(view.shape[1], width, height)
    grey = view[:, top:bottom, left:right].mean(axis=3)
    step = np.square(np.diff(grey, axis=0))
    energy = np.zeros_like(grey)
    energy[1:] += step
    energy[:-1] += step
    energy = np.maximum(energy - np.median(energy, axis=(1, 2), keepdims=True), 0)
    rows = np.linspace(0, energy.shape[1], grid + 1).round().astype(int)
    columns = np.linspace(0, energy.shape[2], grid + 1).round().astype(int)
    cells = np.zeros((len(view), grid, grid))
    for row in range(grid):
        for column in range(grid):
            part = energy[:, rows[row] : rows[row + 1], columns[column] : columns[column + 1]]
            cells[:, row, column] = part.mean(axis=(1, 2)) if part.size else 0.0
    return cells


def strongest_motion(cells: np.ndarray, first: int, last: int) -> tuple[int, int, int, float]:
    """(frame, column, row, gain) of the most moving cell of the frames first..last.

    `gain` is its motion over the average cell's of that frame; 0 where nothing moves.
    """
    part = cells[first : last + 1]
    frame, row, column = np.unravel_index(int(part.argmax()), part.shape)
    mean = float(part[frame].mean())
    return first + int(frame), int(column), int(row), float(part[frame, row, column]) / mean if mean > 0 else 0.0


def moving_box(before: np.ndarray, after: np.ndarray, cell: BoxInt) -> BoxInt | None:
    """Thousandths of what moves most between two source frames within a cell, None where nothing stands out.

    The largest connected region of differences above three times their mean in the cell, at least a hundredth of it.
    """
    height, width = before.shape[:2]
    x0, y0, x1, y1 = (round(v * side / 1000) for v, side in zip(cell, (width, height, width, height)))
    change = cv2.absdiff(before[y0:y1, x0:x1], after[y0:y1, x0:x1]).max(axis=2)
    change = cv2.GaussianBlur(change, (5, 5), 0)
    mask = (change > max(3 * float(change.mean()), 12.0)).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(cv2.dilate(mask, np.ones((5, 5), np.uint8)))
    if count < 2:
        return None
    left, top, wide, high, area = stats[1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())].tolist()
    if area < 0.01 * change.size:
        return None
    left, top = left + x0, top + y0
    return (
        left * 1000 // width,
        top * 1000 // height,
        min(-(-(left + wide) * 1000 // width), 1000),
        min(-(-(top + high) * 1000 // height), 1000),
    )


def around(box: Sequence[float], side: float) -> BoxInt:
    """A box in thousandths at least `side` wide and high around another, inside the frame."""
    spans = []
    for low, high in ((box[0], box[2]), (box[1], box[3])):
        length = min(max(high - low, side), 1000)
        start = min(max((low + high - length) / 2, 0), 1000 - length)
        spans.append((round(start), round(start + length)))
    (left, right), (top, bottom) = spans
    return left, top, right, bottom


def overlaps(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two boxes share any area."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def detail(image: np.ndarray) -> float:
    """Fine detail: mean squared gradient of the grey levels, uint8 RGB (height, width, 3) -> float."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float(np.square(np.diff(grey, axis=0)).mean() + np.square(np.diff(grey, axis=1)).mean())


def detail_gain(source: np.ndarray, view: np.ndarray, box: Sequence[float]) -> float:
    """How much more detail the source holds in a box than the policy's view of the same place, scaled up again.

    The ratio is 1 when the view already shows everything: ablating the crop would then cost nothing.
    """
    height, width = source.shape[:2]
    x0, y0, x1, y1 = box[0] * width / 1000, box[1] * height / 1000, box[2] * width / 1000, box[3] * height / 1000
    region = source[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))]
    if min(region.shape[:2]) < 4:
        return 0.0
    left, top, right, bottom = content_area(view.shape[0], width, height)
    scaled = cv2.resize(view[top:bottom, left:right], (width, height), interpolation=cv2.INTER_LINEAR)
    seen = scaled[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))]
    return detail(region) / max(detail(seen), 1.0)


def frames_hash(view: np.ndarray) -> int:
    """192-bit difference hash of the first, middle and last frame: equal for pictures that look alike."""
    bits = 0
    for index in (0, len(view) // 2, len(view) - 1):
        small = cv2.resize(cv2.cvtColor(view[index], cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA)
        for bit in (small[:, 1:] > small[:, :-1]).ravel():
            bits = bits << 1 | int(bit)
    return bits

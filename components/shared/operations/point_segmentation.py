"""Which object lies under a point: classical segmentation without a learned network.

Method. The object's size is unknown, so GrabCut (Rother, Kolmogorov, Blake 2004) is run in windows of seven sizes
around the point, each scaled to at most 88 px a side: a disc around the point is foreground, what lies beyond the
window's core is background, the colour models decide between. Of the seven masks (the component under the point, holes
filled) the one with the largest expected overlap wins; that expectation is a linear function of shape and contrast
measures, its weights fitted by least squares to overlaps on one half of the images of a COCO sample
(`benchmarks/operations_segment.py --fit`).

Guarantees: deterministic; the mask contains the point and is one component; time does not grow with the picture beyond
one resize of each window.
Not guaranteed: an object of several colours comes out whole; `score` is an expectation over natural pictures, not a
probability.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

HALF_SIDES = (0.03, 0.048, 0.075, 0.12, 0.19, 0.3, 0.46)
"""Half sides of the windows' cores as shares of the picture's longer side."""
REACH = 1.6
"""Half side of a window over that of its core: what lies between is certain background."""
WORK_SIDE = 88
"""Longest side at which GrabCut runs, in pixels."""
ITERATIONS = 2

WEIGHTS = np.array(
    [
        *(-0.2477, -0.0985, -0.0106, -0.0874, 0.1038, 0.0200, 0.1085, 0.2903, -0.0837),
        *(-0.1006, -0.0157, -0.1050, 0.4406, 0.0986, -0.0731, 0.0062, 0.0762, 0.0735),
    ]
)
"""Least-squares weights of `features`, fitted as said above."""


@dataclass(frozen=True)
class Candidate:
    """One hypothesis: a mask inside a window.

    Attributes:
        window: (x0, y0, x1, y1) of the window in the picture.
        mask: uint8 0/1 at the window's working scale.
        image: The window's pixels at that scale, float32 Lab (height, width, 3).
        scale: Working pixels a source pixel.
        half: Half side of the core in source pixels.
        point: (x, y) of the point at the working scale.
    """

    window: tuple[int, int, int, int]
    mask: np.ndarray
    image: np.ndarray
    scale: float
    half: float
    point: tuple[int, int]


def candidates(image: np.ndarray, x: int, y: int) -> list[Candidate]:
    """Hypotheses of all sizes for the object at pixel (x, y) of uint8 RGB (height, width, 3)."""
    longest = max(image.shape[:2])
    found = (candidate(image, x, y, share * longest) for share in HALF_SIDES)
    return [item for item in found if item is not None]


def candidate(image: np.ndarray, x: int, y: int, half: float) -> Candidate | None:
    """GrabCut in one window; None where it finds no foreground at the point."""
    height, width = image.shape[:2]
    reach = half * REACH
    x0, y0 = int(max(x - reach, 0)), int(max(y - reach, 0))
    x1, y1 = int(min(x + reach + 1, width)), int(min(y + reach + 1, height))
    crop = image[y0:y1, x0:x1]
    scale = min(1.0, WORK_SIDE / max(crop.shape[:2]))
    size = (max(round((x1 - x0) * scale), 3), max(round((y1 - y0) * scale), 3))
    small = cv2.resize(crop, size, interpolation=cv2.INTER_AREA) if scale < 1 else np.ascontiguousarray(crop)
    px, py = min(int((x - x0) * scale), small.shape[1] - 1), min(int((y - y0) * scale), small.shape[0] - 1)
    mask = trimap(small.shape[:2], px, py, half * scale)
    if not (mask == cv2.GC_BGD).any() and not (mask == cv2.GC_PR_BGD).any():
        return None
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    try:
        cv2.grabCut(small, mask, None, background, foreground, ITERATIONS, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    except cv2.error:  # too few pixels of one kind for its colour model
        return None
    inside = ((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)).astype(np.uint8)
    _, labels = cv2.connectedComponents(inside)
    if labels[py, px] == 0:
        return None
    inside = fill_holes((labels == labels[py, px]).astype(np.uint8))
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32)
    return Candidate((x0, y0, x1, y1), inside, lab, small.shape[1] / (x1 - x0), half, (px, py))


def trimap(shape: tuple[int, ...], px: int, py: int, half: float) -> np.ndarray:
    """GrabCut's start: certain foreground near the point, certain background outside the core."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    square, round_ = np.maximum(abs(x - px), abs(y - py)), np.hypot(x - px, y - py)
    mask = np.full(shape, cv2.GC_BGD, np.uint8)
    mask[square <= half] = cv2.GC_PR_BGD
    mask[round_ <= 0.7 * half] = cv2.GC_PR_FGD
    mask[round_ <= max(0.15 * half, 1.0)] = cv2.GC_FGD
    return mask


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """A 0/1 mask with its holes filled."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(mask)
    cv2.drawContours(filled, contours, -1, 1, -1)
    return filled


def features(items: list[Candidate], index: int, shape: tuple[int, int]) -> np.ndarray:
    """What the expected overlap of candidate `index` is a linear function of; (NUM_FEATURES,) float64.

    Args:
        items: All candidates of the point.
        index: Which one.
        shape: (height, width) of the picture.
    """
    item = items[index]
    mask, lab = item.mask, item.image
    area = float(mask.sum())
    (contour, *_) = sorted(cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len, reverse=True)
    hull = max(cv2.contourArea(cv2.convexHull(contour)), 1.0)
    perimeter = max(cv2.arcLength(contour, True), 1.0)
    kernel = np.ones((3, 3), np.uint8)
    edge = cv2.dilate(mask, kernel) != cv2.erode(mask, kernel)
    width = max(3, int(np.sqrt(area) / 3) | 1)
    around = (cv2.dilate(mask, np.ones((width, width), np.uint8)) - mask) > 0
    inner = lab[mask > 0]
    outer = lab[around] if around.any() else inner
    smooth = cv2.GaussianBlur(lab, (0, 0), 1.0)
    gradient = np.abs(np.diff(smooth, axis=1, append=smooth[:, -1:])).sum(2)
    gradient = np.hypot(gradient, np.abs(np.diff(smooth, axis=0, append=smooth[-1:])).sum(2))
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    depth = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    source_area = area / item.scale**2
    log_area, log_fill = np.log(source_area / (shape[0] * shape[1])), np.log(np.sqrt(source_area) / item.half)
    centre = np.array([columns[0] + columns[-1], rows[0] + rows[-1]]) / 2
    x0, y0, x1, y1 = item.window
    cut = [columns[0] == 0 and x0 == 0, columns[-1] == mask.shape[1] - 1 and x1 == shape[1]]
    cut += [rows[0] == 0 and y0 == 0, rows[-1] == mask.shape[0] - 1 and y1 == shape[0]]
    agreement = [overlap(item, items[near]) for near in (index - 1, index + 1) if 0 <= near < len(items)]
    return np.array(
        [
            1.0,
            log_area,
            log_area**2,
            area / hull,
            4 * np.pi * area / perimeter**2,
            np.linalg.norm(inner.mean(0) - outer.mean(0)) / 50,
            gradient[edge].mean() / 60,
            gradient[mask > 0].mean() / 60,
            inner.std(0).mean() / 30,
            outer.std(0).mean() / 30,
            sum(cut),
            np.linalg.norm(centre - item.point) / np.sqrt(area),
            depth[item.point[1], item.point[0]] / max(depth.max(), 1.0),
            log_fill,
            log_fill**2,
            abs(np.log((columns[-1] - columns[0] + 1) / (rows[-1] - rows[0] + 1))),
            float(np.mean(agreement)) if agreement else 0.0,
            max(agreement, default=0.0),
        ]
    )


def overlap(one: Candidate, other: Candidate) -> float:
    """Intersection over union of two candidates, compared in the larger one's window and scale."""
    large, small = (one, other) if one.half >= other.half else (other, one)
    x0, y0, x1, y1 = (large.scale * (v - o) for v, o in zip(small.window, large.window[:2] * 2, strict=True))
    left, top = max(round(x0), 0), max(round(y0), 0)
    right, bottom = min(round(x1), large.mask.shape[1]), min(round(y1), large.mask.shape[0])
    if right <= left or bottom <= top:
        return 0.0
    placed = np.zeros_like(large.mask)
    placed[top:bottom, left:right] = cv2.resize(
        small.mask * 255, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR
    ) > 127  # fmt: skip
    union = int((placed | large.mask).sum())
    return float((placed & large.mask).sum()) / union if union else 0.0


def at_source(item: Candidate, shape: tuple[int, int]) -> np.ndarray:
    """A candidate's mask at the picture's resolution, bool (height, width)."""
    x0, y0, x1, y1 = item.window
    full = np.zeros(shape, bool)
    full[y0:y1, x0:x1] = cv2.resize(item.mask * 255, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR) > 127
    return full


def segment_at(image: np.ndarray, x: int, y: int) -> tuple[np.ndarray, float] | None:
    """The object at a pixel.

    Args:
        image: uint8 RGB (height, width, 3).
        x: Column.
        y: Row.

    Returns:
        (mask bool (height, width), expected overlap with the true object 0..1), None where nothing stands out.
    """
    found = candidates(image, x, y)
    if not found:
        return None
    shape = (image.shape[0], image.shape[1])
    scores = [float(features(found, index, shape) @ WEIGHTS) for index in range(len(found))]
    best = int(np.argmax(scores))
    mask = at_source(found[best], shape)
    mask[y, x] = True
    return mask, float(np.clip(scores[best], 0.0, 1.0))

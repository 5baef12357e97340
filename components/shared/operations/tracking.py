"""Following one box through frames: a correlation filter on gradients and colour beside a colour model.

Method: Staple (Bertinetto et al., CVPR 2016, "Complementary learners for real-time tracking"). Every frame gives two
responses over a window around the last place: a multi-channel correlation filter on orientation histograms, grey and
colour, and a histogram model's foreground likelihood averaged over the target's size; their weighted sum is maximised
over position and three scales. Deviations: the colour model's weight falls where colours do not separate target from
surroundings, and both models rest while the filter's peak is weak, so that an occluder is not learned.

Notation: `cell` pixels a histogram cell; arrays (rows, columns, channels); the filter is kept as numerator (per
channel) and denominator in the frequency domain.
Guarantees: deterministic, no randomness; work per frame does not depend on the picture's size.
Not guaranteed: rotation of the box; return of a target that reappears further away than the window reaches.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

CELL = 4
FIXED_AREA = 112 * 112
"""Pixels of the window after scaling."""
PADDING = 1.6
"""Window's border: this share of the target's mean side on each axis."""
FILTER_RATE = 0.018
COLOUR_RATE = 0.04
COLOUR_WEIGHT = 0.35
SCALES = (1 / 1.035, 1.0, 1.035)
SCALE_DAMPING = 0.985
"""Factor on the responses of the scales other than 1."""
BINS = 16
REGULARISER = 1e-3
LEARN_ABOVE = 0.15
LOST_BELOW = 0.08

FloatBox = tuple[float, float, float, float]


@dataclass(frozen=True)
class Tracked:
    """Where the target is in one frame: (x0, y0, x1, y1) in pixels, confidence 0..1, and whether it counts as lost."""

    box: FloatBox
    confidence: float
    lost: bool


class CorrelationTracker:
    """Tracks one box.

    Args:
        frame: uint8 RGB (height, width, 3).
        box: Target (x0, y0, x1, y1) in pixels.
    """

    def __init__(self, frame: np.ndarray, box: FloatBox) -> None:
        x0, y0, x1, y1 = box
        self.x, self.y = (x0 + x1) / 2, (y0 + y1) / 2
        self.width, self.height = max(x1 - x0, 4.0), max(y1 - y0, 4.0)
        border = (self.width + self.height) / 2 * PADDING
        window = np.array([self.width + border, self.height + border])
        self._zoom = float(np.sqrt(FIXED_AREA / window.prod()))
        self._cells = np.maximum(np.round(window * self._zoom / CELL).astype(int), 6)
        self._size = self._cells * CELL
        self._scale = 1.0
        target = np.array([self.width, self.height]) * self._zoom
        sigma = np.sqrt(target.prod()) / CELL / 14
        rows, columns = self._cells[1], self._cells[0]
        gy, gx = np.arange(rows) - rows // 2, np.arange(columns) - columns // 2
        wanted = np.exp(-(gy[:, None] ** 2 + gx[None] ** 2) / (2 * sigma**2))
        self._wanted = np.fft.rfft2(np.fft.ifftshift(wanted))
        self._taper = (np.hanning(rows + 2)[1:-1, None] * np.hanning(columns + 2)[None, 1:-1])[..., None]
        self._target = np.maximum(np.round(target).astype(int), 2)
        self._inside = self._inner_mask()
        self._colour_weight = COLOUR_WEIGHT
        patch = self._patch(frame, 1.0)
        self._learn_filter(patch, 1.0)
        self._learn_colour(patch, 1.0)

    def update(self, frame: np.ndarray) -> Tracked:
        """Find the target in the next frame."""
        best: tuple[float, float, float, float, float] | None = None
        for factor in SCALES:
            patch = self._patch(frame, factor)
            response = self._filter_response(patch)
            merged = (1 - self._colour_weight) * response + self._colour_weight * self._colour_response(patch)
            row, column, value = peak(merged)
            value *= 1.0 if factor == 1.0 else SCALE_DAMPING
            if best is None or value > best[0]:
                best = (value, factor, row, column, sharpness(response))
        assert best is not None
        _, factor, row, column, sharp = best
        step = CELL / self._zoom * self._scale * factor
        height, width = frame.shape[:2]
        self.x = float(np.clip(self.x + (column - self._cells[0] // 2) * step, 0, width - 1))
        self.y = float(np.clip(self.y + (row - self._cells[1] // 2) * step, 0, height - 1))
        self._scale = float(np.clip(self._scale * factor, 0.2, 5.0))
        confidence = float(np.clip((sharp - 4.5) / 10.0, 0.0, 1.0))
        if confidence > LEARN_ABOVE:
            patch = self._patch(frame, 1.0)
            self._learn_filter(patch, FILTER_RATE)
            self._learn_colour(patch, COLOUR_RATE)
        half_width, half_height = self.width * self._scale / 2, self.height * self._scale / 2
        box = (self.x - half_width, self.y - half_height, self.x + half_width, self.y + half_height)
        return Tracked(box, round(confidence, 3), confidence < LOST_BELOW)

    def _patch(self, frame: np.ndarray, factor: float) -> np.ndarray:
        """The window around the target scaled to its fixed size, edges repeated; uint8."""
        zoom = self._zoom / (self._scale * factor)
        shift_x, shift_y = self._size[0] / 2 - (self.x + 0.5) * zoom, self._size[1] / 2 - (self.y + 0.5) * zoom
        matrix = np.array([[zoom, 0, shift_x], [0, zoom, shift_y]])
        flags = cv2.INTER_AREA if zoom < 0.5 else cv2.INTER_LINEAR
        size = (int(self._size[0]), int(self._size[1]))
        return cv2.warpAffine(frame, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)

    def _filter_response(self, patch: np.ndarray) -> np.ndarray:
        spectrum = np.fft.rfft2(features(patch) * self._taper, axes=(0, 1))
        product = (np.conj(self._numerator) * spectrum).sum(2) / (self._denominator + REGULARISER)
        response = np.fft.irfft2(product, s=(self._cells[1], self._cells[0]))
        return np.fft.fftshift(response)

    def _learn_filter(self, patch: np.ndarray, rate: float) -> None:
        spectrum = np.fft.rfft2(features(patch) * self._taper, axes=(0, 1))
        numerator = np.conj(self._wanted)[..., None] * spectrum
        denominator = (np.abs(spectrum) ** 2).sum(2)
        if rate >= 1:
            self._numerator, self._denominator = numerator, denominator
        else:
            self._numerator = (1 - rate) * self._numerator + rate * numerator
            self._denominator = (1 - rate) * self._denominator + rate * denominator

    def _inner_mask(self) -> np.ndarray:
        """bool: pixels of the window that are surely the target's (its box, shrunk a little)."""
        mask = np.zeros((self._size[1], self._size[0]), bool)
        width, height = (self._target * 0.85).astype(int)
        left, top = (self._size[0] - width) // 2, (self._size[1] - height) // 2
        mask[top : top + max(height, 1), left : left + max(width, 1)] = True
        return mask

    def _learn_colour(self, patch: np.ndarray, rate: float) -> None:
        bins = colour_bins(patch)
        outside = np.ones_like(self._inside)
        width, height = (self._target * 1.1).astype(int)
        left, top = max((self._size[0] - width) // 2, 0), max((self._size[1] - height) // 2, 0)
        outside[top : top + height, left : left + width] = False
        count = BINS**3
        target = np.bincount(bins[self._inside], minlength=count) / max(self._inside.sum(), 1)
        rest = np.bincount(bins[outside], minlength=count) / max(outside.sum(), 1)
        if rate >= 1:
            self._target_colours, self._other_colours = target, rest
        else:
            self._target_colours = (1 - rate) * self._target_colours + rate * target
            self._other_colours = (1 - rate) * self._other_colours + rate * rest
        separation = 0.5 * np.abs(self._target_colours - self._other_colours).sum()  # 0: same colours, 1: none shared
        self._colour_weight = COLOUR_WEIGHT * float(np.clip((separation - 0.3) / 0.5, 0, 1))

    def _colour_response(self, patch: np.ndarray) -> np.ndarray:
        total = self._target_colours + self._other_colours
        table = np.where(total > 1e-5, self._target_colours / np.maximum(total, 1e-9), 0.5).astype(np.float32)
        likelihood = table[colour_bins(patch)]
        mean = cv2.blur(likelihood, (int(self._target[0]), int(self._target[1])), borderType=cv2.BORDER_REPLICATE)
        small = cv2.resize(mean, (int(self._cells[0]), int(self._cells[1])), interpolation=cv2.INTER_AREA)
        return small.astype(np.float64)


def features(patch: np.ndarray) -> np.ndarray:
    """Cell features of uint8 RGB (rows * CELL, columns * CELL, 3): 9 orientations, grey, two colours; float64."""
    lab = cv2.cvtColor(patch, cv2.COLOR_RGB2LAB).astype(np.float32)
    grey = lab[..., 0]
    gx = cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=1, borderType=cv2.BORDER_REPLICATE)
    gy = cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=1, borderType=cv2.BORDER_REPLICATE)
    magnitude, angle = cv2.cartToPolar(gx, gy)
    place = angle * (9 / np.pi)
    lower = np.floor(place)
    part = place - lower
    first, second = lower.astype(np.int32) % 9, (lower.astype(np.int32) + 1) % 9
    rows, columns = patch.shape[0] // CELL, patch.shape[1] // CELL
    cell_of = (np.arange(patch.shape[0]) // CELL)[:, None] * columns + (np.arange(patch.shape[1]) // CELL)[None]
    index = (cell_of * 9).ravel()
    histogram = np.bincount(index + first.ravel(), (magnitude * (1 - part)).ravel(), rows * columns * 9)
    histogram = histogram + np.bincount(index + second.ravel(), (magnitude * part).ravel(), rows * columns * 9)
    histogram = histogram.reshape(rows, columns, 9)
    energy = cv2.blur((histogram**2).sum(2), (3, 3), borderType=cv2.BORDER_REPLICATE)
    oriented = np.minimum(histogram / np.sqrt(energy + 25.0)[..., None], 0.6)
    pooled = lab.reshape(rows, CELL, columns, CELL, 3).mean(axis=(1, 3)) / 255 - 0.5
    return np.concatenate([oriented, pooled], axis=2)


def colour_bins(patch: np.ndarray) -> np.ndarray:
    """Index of each pixel's colour bin, int32 (rows, columns)."""
    bins = (patch >> 4).astype(np.int32)
    return (bins[..., 0] * BINS + bins[..., 1]) * BINS + bins[..., 2]


def peak(response: np.ndarray) -> tuple[float, float, float]:
    """(row, column, value) of the highest place, between cells by a parabola on each axis."""
    row, column = np.unravel_index(int(response.argmax()), response.shape)
    value = float(response[row, column])

    def between(before: float, after: float) -> float:
        curve = before - 2 * value + after
        return float(np.clip(0.5 * (before - after) / curve, -0.5, 0.5)) if curve < 0 else 0.0

    rows, columns = response.shape
    down = between(response[row - 1, column], response[row + 1, column]) if 0 < row < rows - 1 else 0.0
    right = between(response[row, column - 1], response[row, column + 1]) if 0 < column < columns - 1 else 0.0
    return row + down, column + right, value


def sharpness(response: np.ndarray) -> float:
    """Peak-to-sidelobe ratio: the peak over the rest's mean, in standard deviations."""
    row, column = np.unravel_index(int(response.argmax()), response.shape)
    rest = np.ones(response.shape, bool)
    rest[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = False
    side = response[rest]
    return float((response[row, column] - side.mean()) / (side.std() + 1e-9)) if side.size else 0.0

"""The order tag: a stripe pattern that only a close look can tell.

Guarantees: inside the pattern every block of `period` by `period` pixels, wherever it lies, has the same mean for all
four values (period 8 at a width of 448, so the view at 1/8 scale is one flat grey); the tag lies whole inside one
cell of the 4 x 4 grid, aligned to `period`, and is painted last, so nothing ever covers it. Not guaranteed: equal
greys in a view whose scale does not divide by the period, or one resized without averaging.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

VALUES: tuple[str, ...] = ("horizontal", "vertical", "diagonal", "checker")
GRID = 4
PERIODS = 4
"""The pattern's side in periods: 32 px at a width of 448."""


@dataclass(frozen=True)
class Tag:
    """One order's tag.

    Attributes:
        value: The pattern's name.
        cell: (column, row) of the 4 x 4 grid.
        box: Pattern's pixels (x0, y0, x1, y1), end exclusive; the frame around it is `margin` pixels wide.
        period: Stripe period in pixels.
        dark, light: The two grey levels.
    """

    value: str
    cell: tuple[int, int]
    box: tuple[int, int, int, int]
    period: int
    dark: int
    light: int

    @property
    def margin(self) -> int:
        """Width of the constant frame in pixels."""
        return self.period // 2


def period_px(width: int) -> int:
    """Stripe period at a picture width: 1/56 of it, even."""
    return max(4, 2 * round(width / 112))


def draw_tag(rng: np.random.Generator, width: int, height: int) -> Tag:
    """Choose value, cell and place of one order's tag."""
    period = period_px(width)
    side, margin = PERIODS * period, period // 2
    column, row = int(rng.integers(GRID)), int(rng.integers(GRID))
    x = _aligned(rng, column * width / GRID, (column + 1) * width / GRID, side, margin, period)
    y = _aligned(rng, row * height / GRID, (row + 1) * height / GRID, side, margin, period)
    value = VALUES[int(rng.integers(len(VALUES)))]
    dark = int(rng.integers(40, 80))
    return Tag(value, (column, row), (x, y, x + side, y + side), period, dark, dark + int(rng.integers(110, 140)))


def _aligned(rng: np.random.Generator, low: float, high: float, side: int, margin: int, period: int) -> int:
    first = int(np.ceil((low + margin) / period))
    last = int(np.floor((high - margin - side) / period))
    return int(rng.integers(first, max(first, last) + 1)) * period


def pattern(value: str, period: int, side: int) -> np.ndarray:
    """The pattern as booleans (side, side); half of every period x period block is True."""
    y, x = np.mgrid[:side, :side] // (period // 2)
    fine_y, fine_x = np.mgrid[:side, :side]
    match value:
        case "horizontal":
            return y % 2 == 0
        case "vertical":
            return x % 2 == 0
        case "diagonal":
            return ((fine_x + fine_y) // (period // 2)) % 2 == 0
        case "checker":
            return (x + y) % 2 == 0
    raise ValueError(f"{value!r} is no tag value; known: {', '.join(VALUES)}")


def tag_patch(tag: Tag) -> np.ndarray:
    """The tag with its frame, uint8 BGR (side + 2 margin, side + 2 margin, 3)."""
    side = tag.box[2] - tag.box[0]
    inner = np.where(pattern(tag.value, tag.period, side), tag.light, tag.dark).astype(np.uint8)
    framed = np.pad(inner, tag.margin, constant_values=tag.light)
    return np.repeat(framed[..., None], 3, axis=2)

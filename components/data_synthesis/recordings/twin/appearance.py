"""How one person's workplace looks: layout, colours, light, sizes, pace. Drawn once per person.

Guarantee: depends on the person's generator only, so every session of a person looks alike.
Coordinates are design pixels of a 448 x 336 picture seen from above, the worker at the lower edge; `draw.py` scales them.
The hand called `right` is the one that leads; where the layout is mirrored it is the picture's left one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from components.data_synthesis.recordings.config import TwinSection

DESIGN = (448, 336)
Point = tuple[float, float]
Colour = tuple[int, int, int]
"""BGR."""

_SKINS = ((120, 160, 205), (140, 180, 225), (95, 130, 180), (70, 100, 150), (45, 70, 110), (160, 195, 235))
_GLOVES = ((235, 235, 235), (60, 60, 60), (200, 120, 40), (60, 160, 230))
_CARTONS = ((95, 150, 190), (80, 130, 165), (120, 165, 200), (150, 185, 205), (215, 220, 222))


@dataclass(frozen=True)
class Look:
    """One person's workplace.

    Attributes:
        mirrored: Left-handed layout.
        points: Named places in design pixels.
        box: Box size (width, height) in design pixels.
        colours: Named BGR colours, light already applied.
        hand: Hand radius in design pixels.
        pace: Factor on durations.
        gain: Brightness factor.
        tilt: (horizontal, vertical) light gradient, share of brightness from edge to edge.
        jitter: How much the hands wander, in design pixels.
        grain: Standard deviation of the fixed texture.
    """

    mirrored: bool
    points: dict[str, Point]
    bins: tuple[Point, ...]
    box: tuple[float, float]
    colours: dict[str, Colour]
    bin_colours: tuple[Colour, ...]
    hand: float
    pace: float
    gain: float
    tilt: Point
    jitter: float
    grain: float
    bench: tuple[float, float, float, float]


def draw_look(config: TwinSection, rng: np.random.Generator, *, light: float = 1.0, speed: float = 1.0) -> Look:
    """Draw one person's workplace."""
    variety = config.appearance
    mirrored = bool(rng.random() < 0.5 * variety)
    drift = rng.uniform(-1, 1, 2) * (14, 9) * variety

    def place(x: float, y: float, sx: float, sy: float) -> Point:
        dx, dy = rng.uniform(-1, 1, 2) * (sx, sy) * variety
        x, y = x + dx + drift[0], y + dy + drift[1]
        return (DESIGN[0] - x if mirrored else x, y)

    points = {
        "box": place(224, 176, 14, 9),
        "staging": place(118, 178, 12, 14),
        "sheet": place(316, 238, 12, 10),
        "pen": place(366, 248, 6, 10),
        "scanner": place(345, 150, 12, 14),
        "tape": place(344, 196, 10, 12),
        "printer": place(92, 112, 14, 10),
        "ship_printer": place(334, 98, 16, 8),
        "back": place(414, 140, 6, 26),
        "shoulder_l": place(176, 346, 10, 4),
        "shoulder_r": place(272, 346, 10, 4),
        "rest_l": place(180, 300, 14, 8),
        "rest_r": place(268, 300, 14, 8),
    }
    spread = rng.uniform(50, 62)
    first = 224 - 2 * spread + rng.uniform(-20, 20) * variety
    bins = tuple((float(first + k * spread), float(34 + rng.uniform(-4, 4) * variety)) for k in range(5))
    gain = float(np.clip(1 + rng.normal(0, 0.13) * config.lighting, 0.6, 1.4)) * light
    warmth = float(rng.normal(0, 0.05) * config.lighting)
    tint = np.array([1 - warmth, 1.0, 1 + warmth]) * gain
    return Look(
        mirrored=mirrored,
        points=points,
        bins=bins,
        box=(float(104 + rng.uniform(-16, 16) * variety), float(78 + rng.uniform(-10, 10) * variety)),
        colours={name: lit(colour, tint) for name, colour in _palette(rng, variety).items()},
        bin_colours=tuple(lit(_random_colour(rng, 60, 220, variety), tint) for _ in range(5)),
        hand=float(13 + rng.uniform(-2, 2) * variety),
        pace=float(np.clip(np.exp(rng.normal(0, 0.15) * variety), 0.6, 1.6)) / speed,
        gain=gain,
        tilt=tuple((rng.uniform(-0.35, 0.35, 2) * config.lighting).tolist()),  # type: ignore[arg-type]
        jitter=float(rng.uniform(1.0, 3.0)),
        grain=float(rng.uniform(1.0, 4.0)),
        bench=(20 + drift[0] * 0.3, 62 + drift[1] * 0.5, 392 + drift[0] * 0.3, 272 + drift[1] * 0.5),
    )


def lit(colour: Colour, tint: np.ndarray) -> Colour:
    """A colour under this person's light."""
    b, g, r = np.clip(np.asarray(colour) * tint, 0, 255).astype(int).tolist()
    return b, g, r


def _random_colour(rng: np.random.Generator, low: int, high: int, variety: float) -> Colour:
    middle = np.full(3, (low + high) / 2)
    b, g, r = (middle + (rng.uniform(low, high, 3) - middle) * variety).astype(int).tolist()
    return b, g, r


def _near(rng: np.random.Generator, colour: Colour, amount: float) -> Colour:
    b, g, r = np.clip(np.asarray(colour) + rng.uniform(-amount, amount, 3), 5, 250).astype(int).tolist()
    return b, g, r


def _apart(rng: np.random.Generator, others: tuple[Colour, ...], variety: float) -> Colour:
    """A colour that stands out from others."""
    for _ in range(30):
        colour = _random_colour(rng, 30, 245, max(variety, 0.2))
        if min(np.abs(np.subtract(colour, other)).sum() for other in others) > 140:
            return colour
    return (60, 60, 220)


def _palette(rng: np.random.Generator, variety: float) -> dict[str, Colour]:
    """Colours before light; tools keep their family so that they stay recognisable."""
    gloved = rng.random() < 0.3 * variety
    skin = (_GLOVES if gloved else _SKINS)[int(rng.integers(4 if gloved else 6)) if variety else 0]
    carton = _CARTONS[int(rng.integers(len(_CARTONS))) if variety else 0]
    amount = 22 * variety
    bench = _near(rng, (118, 138, 150), 48 * variety)
    return {
        "floor": _near(rng, (92, 94, 98), 30 * variety),
        "bench": bench,
        "shelf": _near(rng, (88, 82, 80), 30 * variety),
        "back_table": _near(rng, (150, 140, 130), 40 * variety),
        "skin": _near(rng, skin, 14 * variety),
        "sleeve": _random_colour(rng, 20, 200, variety),
        "hair": _near(rng, (40, 45, 55), 30 * variety),
        "carton": _near(rng, carton, amount / 2),
        "item": _apart(rng, (bench, carton), variety),
        "scanner": _near(rng, (45, 42, 40), amount),
        "tape": _near(rng, (50, 60, 190), amount),
        "tape_strip": _near(rng, (120, 185, 205), amount / 2),
        "pen": _near(rng, (150, 40, 30), amount),
        "sheet": _near(rng, (226, 228, 230), amount / 2),
        "item_label": _near(rng, (70, 215, 240), amount),
        "box_label": _near(rng, (235, 235, 235), amount / 2),
        "ship_label": _near(rng, (215, 235, 215), amount / 2),
        "printer": _near(rng, (70, 66, 62), amount),
    }

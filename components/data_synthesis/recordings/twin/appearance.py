"""How one person's workplace looks: layout, colours, light, sizes, pace. Drawn once per person.

Guarantee: depends on the person's generator only, so every session of a person looks alike. Coordinates are design
pixels of a 448 x 336 picture seen from above, the worker at the lower edge; `draw.py` scales them. The hand called
`right` is the one that leads; where the layout is mirrored it is the picture's left one.
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
_GLOVES = ((235, 235, 235), (225, 215, 190), (150, 210, 240))
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
    mirrored = bool(rng.random() < config.left_handed_share)
    drift = (rng.uniform(-1, 1, 2) * (6, 4) * variety).tolist()

    def place(x: float, y: float, sx: float, sy: float) -> Point:
        # plain floats: drawing with NumPy's scalars takes a quarter longer
        dx, dy = (rng.uniform(-0.6, 0.6, 2) * (sx, sy) * variety).tolist()
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
    spread = 56 + rng.uniform(-4, 4) * variety
    first = 224 - 2 * spread + rng.uniform(-8, 8) * variety
    bins = tuple((float(first + k * spread), float(34 + rng.uniform(-4, 4) * variety)) for k in range(5))
    gain = float(np.clip(1 + rng.normal(0, 0.08) * config.lighting, 0.6, 1.4)) * light
    warmth = float(rng.normal(0, 0.03) * config.lighting)
    tint = np.array([1 - warmth, 1.0, 1 + warmth]) * gain
    return Look(
        mirrored=mirrored,
        points=points,
        bins=bins,
        box=(float(106 + rng.uniform(-10, 10) * variety), float(80 + rng.uniform(-7, 7) * variety)),
        colours={name: lit(colour, tint) for name, colour in _palette(rng, variety).items()},
        bin_colours=tuple(lit(_grey(rng, 70, 170, 35, variety), tint) for _ in range(5)),
        hand=float(15 + rng.uniform(-1.5, 1.5) * variety),
        pace=float(np.clip(np.exp(rng.normal(0, 0.15) * variety), 0.6, 1.6)) / speed,
        gain=gain,
        tilt=tuple((rng.uniform(-0.2, 0.2, 2) * config.lighting).tolist()),  # type: ignore[arg-type]
        jitter=float(rng.uniform(1.0, 3.0)),
        grain=float(rng.uniform(1.0, 4.0)),
        bench=(20 + drift[0] * 0.3, 62 + drift[1] * 0.5, 392 + drift[0] * 0.3, 272 + drift[1] * 0.5),
    )


def lit(colour: Colour, tint: np.ndarray) -> Colour:
    """A colour under this person's light."""
    b, g, r = np.clip(np.asarray(colour) * tint, 0, 255).astype(int).tolist()
    return b, g, r


def _near(rng: np.random.Generator, colour: Colour, amount: float) -> Colour:
    b, g, r = np.clip(np.asarray(colour) + rng.uniform(-amount, amount, 3), 5, 250).astype(int).tolist()
    return b, g, r


def _palette(rng: np.random.Generator, variety: float) -> dict[str, Colour]:
    """Colours before light. Surroundings are muted; what the work is about keeps its family of colour."""
    gloved = rng.random() < 0.2 * variety
    skin = (_GLOVES if gloved else _SKINS)[int(rng.integers(len(_GLOVES) if gloved else len(_SKINS))) if variety else 0]
    carton = _CARTONS[int(rng.integers(len(_CARTONS))) if variety else 0]
    amount = 18 * variety
    sleeve = _grey(rng, 35, 105, 22, variety)
    return {
        "floor": _grey(rng, 75, 110, 10, variety),
        "bench": _grey(rng, 105, 175, 14, variety),
        "shelf": _grey(rng, 70, 100, 10, variety),
        "back_table": _grey(rng, 120, 190, 14, variety),
        "skin": _near(rng, skin, 12 * variety),
        "sleeve": sleeve,
        "hair": _near(rng, (30, 32, 40), 20 * variety),
        "carton": _near(rng, carton, amount / 2),
        "item": _near(rng, (215, 60, 190), 2 * amount),
        "scanner": _near(rng, (45, 42, 40), amount),
        "tape": _near(rng, (30, 90, 245), amount),
        "tape_strip": _near(rng, (120, 185, 205), amount / 2),
        "pen": _near(rng, (225, 60, 20), amount),
        "sheet": _near(rng, (232, 234, 236), amount / 2),
        "item_label": _near(rng, (40, 230, 250), amount),
        "box_label": _near(rng, (240, 235, 150), amount),
        "ship_label": _near(rng, (120, 235, 120), amount),
        "printer": _near(rng, (70, 66, 62), amount),
    }


def _grey(rng: np.random.Generator, low: float, high: float, tint: float, variety: float) -> Colour:
    """A muted colour: some grey, a little tinted."""
    middle = (low + high) / 2
    level = middle + (rng.uniform(low, high) - middle) * variety
    return _near(rng, (round(level),) * 3, tint * variety)

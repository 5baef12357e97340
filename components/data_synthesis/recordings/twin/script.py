"""The order of work of one recording: which operation when, with durations, skips, repeats and pauses.

Guarantees: the same generator state gives the same script; segments are contiguous, cover the whole recording, start
at a random point of the order of work, and no two neighbours have the same label. Usual successors follow the
official sample (… Scan Label, Fill out Order, Attach Shipping Label, Put on Back Table …). Not guaranteed: the
official sample's durations (3 to 12 s): they are evened out to about 5 s, operations that loops make frequent being
shorter, so that no class and no constant segment wins.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from components.data_synthesis.recordings.config import TwinSection
from components.shared.work.operations import NULL_ID

SUCCESSORS: dict[int, tuple[tuple[int, float], ...]] = {
    100: ((200, 0.65), (300, 0.35)),
    200: ((300, 0.68), (100, 0.32)),
    300: ((400, 0.70), (200, 0.30)),
    400: ((500, 0.68), (100, 0.20), (300, 0.12)),
    500: ((600, 0.68), (400, 0.20), (700, 0.12)),
    600: ((700, 0.68), (1000, 0.32)),
    700: ((1000, 0.65), (800, 0.35)),
    1000: ((800, 0.68), (700, 0.20), (900, 0.12)),
    800: ((900, 0.65), (100, 0.35)),
    900: ((100, 0.75), (200, 0.25)),
}
"""Operation id -> (next id, probability), the usual one first."""

TYPICAL_S: dict[int, float] = {
    100: 4.6, 200: 4.0, 300: 4.0, 400: 4.8, 500: 5.2, 600: 5.8, 700: 5.8, 1000: 5.8, 800: 5.8, 900: 6.0, NULL_ID: 2.0,
}  # fmt: skip
"""Typical duration in seconds at duration_scale 1."""

_ENDS_ORDER = {800, 900}
_STARTS_ORDER = {100, 200}


@dataclass(frozen=True)
class BenchState:
    """What stands on the bench when an operation begins."""

    box: str = "none"
    """none | open | closed | away"""
    staged: int = 0
    """Items lying beside the box."""
    packed: int = 0
    """Items inside the box."""
    box_label: bool = False
    shipping_label: bool = False
    sheet_labels: int = 0
    """Item labels on the order sheet."""
    written: bool = False


@dataclass(frozen=True)
class Step:
    """One operation of the script; times in seconds from the recording's first frame."""

    operation: int
    start_s: float
    end_s: float
    order: int
    """Number of the order (the box column of the official CSV)."""
    before: BenchState
    choice: float = field(default=0.0)
    """Uniform number in [0, 1) that makes this instance differ from others (which bin, which side)."""


def after(operation: int, state: BenchState) -> BenchState:
    """The bench once the operation is done."""
    match operation:
        case 100:
            return replace(state, staged=min(state.staged + 1, 3))
        case 200:
            return replace(state, sheet_labels=min(state.sheet_labels + 1, 3))
        case 300:
            return replace(state, box="open")
        case 400:
            return replace(state, box="open", packed=min(state.packed + 1, 3), staged=max(state.staged - 1, 0))
        case 500:
            return replace(state, box="closed")
        case 600:
            return replace(state, box_label=True)
        case 800:
            return replace(state, shipping_label=True)
        case 900:
            return replace(state, box="away")
        case 1000:
            return replace(state, written=True)
    return state


def write_script(config: TwinSection, rng: np.random.Generator, *, length_s: float, pace: float) -> list[Step]:
    """Draw the order of work of one recording.

    Args:
        config: The twin's section.
        rng: Generator of this recording.
        length_s: Length of the recording.
        pace: This person's factor on all durations.
    """
    fps = config.fps
    lead = round(float(rng.uniform(0, 12 * 5 * config.duration_scale * pace)) * fps)
    steps: list[Step] = []
    operation, clock, order, state, length = 100, -lead, int(rng.integers(1, 15)), BenchState(), round(length_s * fps)

    def add(operation: int) -> None:
        nonlocal clock
        end = clock + _duration_frames(config, rng, operation, pace)
        if end > 0:
            start_s, end_s = max(clock, 0) / fps, min(end, length) / fps
            steps.append(Step(operation, start_s, end_s, order, state, float(rng.random())))
        clock = end

    while clock < length:
        add(operation)
        state = after(operation, state)
        if clock < length and rng.random() < config.null_probability:
            add(NULL_ID)
        following = _successor(config, rng, operation)
        if operation in _ENDS_ORDER and following in _STARTS_ORDER:
            order, state = order + 1, BenchState()
        operation = following
    return steps


def _duration_frames(config: TwinSection, rng: np.random.Generator, operation: int, pace: float) -> int:
    factor = config.duration_factors.get(operation, 1.0)
    draw = TYPICAL_S[operation] * config.duration_scale * pace * factor * rng.uniform(*config.duration_spread)
    return max(round(0.2 * config.fps), round(float(draw) * config.fps), 1)


def _successor(config: TwinSection, rng: np.random.Generator, operation: int) -> int:
    options = SUCCESSORS[operation]
    if rng.random() < config.regularity:
        return options[0][0]
    return int(rng.choice([o for o, _ in options], p=[p for _, p in options]))

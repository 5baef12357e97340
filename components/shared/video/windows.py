"""Where windows are placed: around boundaries and at random in training, sliding everywhere else.

Positions are whole frames of the normalised grid. Sliding windows depend on the recording's length alone, never on its
annotation; training windows may look at it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from components.shared.video.labelling import Timeline

WindowKind = Literal["before", "across", "after", "random", "sliding"]
REDRAWS = 6
EDGE_S = 0.4
"""An `across` window keeps its boundary at least this far inside."""


@dataclass(frozen=True, order=True)
class Window:
    """A stretch of grid frames."""

    start: int
    length: int
    kind: WindowKind


def sliding_windows(num_frames: int, length: int, stride: float) -> list[Window]:
    """Windows every `stride` frames (rounded), the last flush with the end so that nothing is left out.

    A recording shorter than a window gets one, padded.
    """
    last = max(num_frames - length, 0)
    starts = [round(number * stride) for number in range(int(last / stride) + 1)]
    if last - starts[-1] > stride / 4 or len(starts) == 1:
        starts.append(last)
    starts[-1] = last  # a remainder under a quarter stride moves the last window rather than adding its twin
    starts = sorted(set(starts))
    return [Window(start, length, "sliding") for start in starts]


def training_windows(
    timeline: Timeline,
    num_frames: int,
    length: int,
    *,
    fps: int,
    offset_s: float,
    random_per_minute: float,
    accept: Callable[[Window], bool],
    rng: random.Random,
) -> list[Window]:
    """Three windows around each boundary with random offsets, and random ones; no two start within 0.2 s.

    `before` ends and `after` starts within `offset_s` of the boundary, `across` has it anywhere inside. A window that
    is not accepted is drawn again a few times, then left out.

    Args:
        timeline: The recording's annotation.
        num_frames: Its length in grid frames.
        length: Window length in grid frames.
        fps: Grid frames a second.
        offset_s: Largest distance of `before` and `after` windows from touching the boundary.
        random_per_minute: Random windows a minute of recording.
        accept: Says whether a window has a clear answer.
        rng: Source of the offsets.
    """
    if num_frames <= length:
        return [window] if accept(window := Window(0, length, "random")) else []
    last, length_s = num_frames - length, length / fps
    across = (EDGE_S - length_s, -EDGE_S)
    draws: list[tuple[WindowKind, float, float]] = []
    for boundary in timeline.boundaries():
        draws.append(("before", boundary - length_s - offset_s, boundary - length_s + offset_s))
        draws.append(("across", boundary + across[0], boundary + across[1]))
        draws.append(("after", boundary - offset_s, boundary + offset_s))
    count = max(1, round(num_frames / fps / 60 * random_per_minute)) if random_per_minute else 0
    draws += [("random", 0.0, last / fps)] * count
    placed: list[Window] = []
    for kind, low, high in draws:
        for _ in range(REDRAWS):
            start = round(rng.uniform(low, high) * fps)
            window = Window(min(max(start, 0), last), length, kind)
            if accept(window) and all(abs(window.start - other.start) >= fps // 5 for other in placed):
                placed.append(window)
                break
    return sorted(placed)

"""Difficulty of a trajectory and the curriculum stage it belongs to.

difficulty = 0.32 * calls + 0.2 * corrected + 0.12 * boundary + 0.1 * short, at most 1, where `calls` counts operations,
`corrected` is 1 when a turn is not imitated, `boundary` is 1 when the window of an answer about a segment holds one,
and `short` is 1 for such a segment under 1.5 s. With the default thresholds (0.3, 0.6) what has to be *done* decides:
direct answers are simple, one look is intermediate, two looks are complex; what makes an answer harder to see orders
trajectories within their stage, and matters across stages where other thresholds are configured.
"""

from __future__ import annotations

from typing import Literal

from components.shared.samples.clip import ClipMeta
from components.shared.samples.trajectory import Turn

Stage = Literal["simple", "intermediate", "complex"]
SHORT_S = 1.5


def difficulty(meta: ClipMeta, turns: tuple[Turn, ...], *, about_segment: bool) -> float:
    """Difficulty from 0 to 1; `about_segment` where the answer names the clip's segment."""
    calls = sum(turn.call is not None for turn in turns)
    score = 0.32 * calls + 0.2 * any(not turn.learn for turn in turns)
    if about_segment:
        score += 0.12 * meta.has_boundary + 0.1 * (meta.segment_s[1] - meta.segment_s[0] < SHORT_S)
    return min(score, 1.0)


def stage(score: float, intermediate_from: float, complex_from: float) -> Stage:
    """Curriculum stage of a difficulty."""
    if score >= complex_from:
        return "complex"
    return "intermediate" if score >= intermediate_from else "simple"

"""Questions and their true answers.

Role: one operation question for every clip that is not ambiguous, one close-up question where the truth knows a detail.
Notation of answers: {"operation", "start_s", "end_s", "next_operation"}, times in seconds from the window's start at
0.1 s; {"value"} for close-ups.
In the train split start and end are the nearest sampled frames' own times (what a policy can point at); in the other
splits they are the annotation's, so that nothing is scored against a rounded truth.
"""

from __future__ import annotations

from typing import Any

from components.shared.samples.clip import ClipMeta
from components.shared.samples.trajectory import Question

OPERATION_TEXT = "Which operation is under way, when does it start and end, and what comes next?"
CLOSEUP_TEXT = "Which pattern does the tag in row {row}, column {column} show?"
"""Rows and columns of the grid of zooms, from 1: the asker says where, and only a close look says what."""


def snap(time_s: float, frame_times_s: tuple[float, ...]) -> int:
    """Index of the sampled frame nearest to a time (the earlier of two equally near)."""
    return min(range(len(frame_times_s)), key=lambda index: (abs(frame_times_s[index] - time_s), index))


def snapped_segment(segment_s: tuple[float, float], frame_times_s: tuple[float, ...]) -> tuple[float, float]:
    """A segment's ends as sampled frames' times at 0.1 s, at least one frame apart where there are two frames."""
    first, last = (snap(time, frame_times_s) for time in segment_s)
    if last == first and len(frame_times_s) > 1:
        first, last = (first, first + 1) if first + 1 < len(frame_times_s) else (first - 1, first)
    return round(frame_times_s[first], 1), round(frame_times_s[last], 1)


def operation_answer(meta: ClipMeta, *, snapped: bool) -> dict[str, Any]:
    """The answer to a clip's operation question."""
    start, end = snapped_segment(meta.segment_s, meta.frame_times_s) if snapped else meta.segment_s
    return {
        "operation": meta.operation,
        "start_s": round(start, 1),
        "end_s": round(end, 1),
        "next_operation": meta.next_operation,
    }


def operation_question(meta: ClipMeta) -> Question | None:
    """The operation question, None for a clip without a clear or scored answer."""
    if meta.ambiguous or not meta.operation:
        return None
    return Question(
        question_id=f"{meta.clip_id}-op",
        clip_id=meta.clip_id,
        split=meta.split,
        kind="operation",
        text=OPERATION_TEXT,
        truth=operation_answer(meta, snapped=meta.split == "train"),
    )


def closeup_question(
    meta: ClipMeta,
    value: str,
    choices: tuple[str, ...],
    evidence_box: tuple[int, int, int, int],
    *,
    text: str,
    suffix: str = "",
) -> Question:
    """A close-up question of a clip whose detail is known; `suffix` tells several of one clip apart."""
    return Question(
        question_id=f"{meta.clip_id}-cu{suffix}",
        clip_id=meta.clip_id,
        split=meta.split,
        kind="closeup",
        text=text,
        truth={"value": value},
        choices=choices,
        evidence_box=evidence_box,
    )

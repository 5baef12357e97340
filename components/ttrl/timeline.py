"""Sliding windows' answers laid over each other: one label a tenth of a second, joined to segments (pure)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from components.ttrl.voting import Answer

STEP_S = 0.1


def timeline(answers: Sequence[tuple[float, Answer | None, float]], duration_s: float) -> list[dict[str, Any]]:
    """Segments of a recording.

    Args:
        answers: (window's start in seconds, its answer or None, its confidence), in order.
        duration_s: Length of the recording.

    Returns:
        [{"operation", "start_s", "end_s", "confidence"}], ascending, without overlap. At each tenth of a second the
        operation with the largest sum of confidences over the windows that claim it wins; where none does, there is no
        segment. A segment's confidence is its winner's mean share of what was claimed.
    """
    num_steps = max(round(duration_s / STEP_S), 0)
    claims: list[dict[str, float]] = [defaultdict(float) for _ in range(num_steps)]
    for start, answer, confidence in answers:
        if answer is None or "operation" not in answer or confidence <= 0:
            continue
        first = max(round((start + answer["start_s"]) / STEP_S), 0)
        last = min(round((start + answer["end_s"]) / STEP_S), num_steps)
        for step in range(first, last):
            claims[step][answer["operation"]] += confidence
    segments: list[dict[str, Any]] = []
    shares: list[list[float]] = []
    for step, claim in enumerate(claims):
        if not claim:
            continue
        name = max(sorted(claim), key=lambda key: claim[key])
        share = claim[name] / sum(claim.values())
        at, until = round(step * STEP_S, 1), round((step + 1) * STEP_S, 1)
        if segments and segments[-1]["operation"] == name and segments[-1]["end_s"] == at:
            segments[-1]["end_s"] = until
            shares[-1].append(share)
        else:
            segments.append({"operation": name, "start_s": at, "end_s": until})
            shares.append([share])
    return [segment | {"confidence": round(sum(s) / len(s), 4)} for segment, s in zip(segments, shares, strict=True)]

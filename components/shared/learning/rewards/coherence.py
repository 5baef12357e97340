"""Coherence reward: operations follow from each other and from the thought that announces them; no script is imposed.

A rollout starts at 1 and loses its share of flaws among its calls: a repeated call (same operation and frame, regions
overlapping by more than `same_region` IoU, so that the crop tells nothing more), a failed call, and a call that
contradicts its own thought (the thought names another operation, or another frame). A rollout without calls has
nothing incoherent in it and scores 1: whether to look at all is curiosity's and the task's business.

Limit: thoughts are compared by the operation names and frame numbers in them, not by meaning.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from components.shared.learning.episode import CallRecord
from components.shared.learning.rewards.scored import RolloutBatch, Scored

FRAME = re.compile(r"\bframe (\d+)")


def region_iou(one: object, other: object) -> float:
    """Intersection over union of two boxes [x0, y0, x1, y1]; 1 where equal in any form, 0 where not comparable."""
    if one == other:
        return 1.0
    if not _is_box(one) or not _is_box(other):
        return 0.0
    a, b = one, other
    width = min(a[2], b[2]) - max(a[0], b[0])  # type: ignore[index]
    height = min(a[3], b[3]) - max(a[1], b[1])  # type: ignore[index]
    overlap = max(width, 0.0) * max(height, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))  # type: ignore[index]
    return overlap / (areas - overlap) if areas > overlap else 0.0


def _is_box(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 4 and all(isinstance(part, int | float) for part in value)


class CoherenceReward:
    """See the module's text; 0..1.

    Args:
        same_region: Two calls on one frame whose boxes overlap by more than this IoU are a repeat.
    """

    name = "coherence"

    def __init__(self, *, same_region: float = 0.7) -> None:
        self.same_region = same_region

    def score(self, batch: RolloutBatch) -> list[Scored]:
        """One score a rollout."""
        return [self.calls_score(episode.calls) for episode in batch.episodes]

    def calls_score(self, calls: Sequence[CallRecord]) -> Scored:
        """The score of one rollout's calls."""
        repeats = sum(any(self._same(call, earlier) for earlier in calls[:index]) for index, call in enumerate(calls))
        failures = sum(not call.ok for call in calls)
        contradictions = sum(_contradicts(call, {other.name for other in calls}) for call in calls)
        flaws = repeats + failures + contradictions
        value = 1.0 - min(flaws / len(calls), 1.0) if calls else 1.0
        return Scored(value, {"repeats": repeats, "failures": failures, "contradictions": contradictions})

    def _same(self, call: CallRecord, earlier: CallRecord) -> bool:
        if call.name != earlier.name or call.arguments.get("frame") != earlier.arguments.get("frame"):
            return False
        others = {key: value for key, value in call.arguments.items() if key != "box"}
        if others != {key: value for key, value in earlier.arguments.items() if key != "box"}:
            return False
        return region_iou(call.arguments.get("box"), earlier.arguments.get("box")) > self.same_region


def _contradicts(call: CallRecord, known: set[str]) -> bool:
    """Whether the thought names another of the rollout's operations but not this one, or another frame only."""
    named = {name for name in known if re.search(rf"\b{re.escape(name)}\b", call.thought)}
    frames = {int(number) for number in FRAME.findall(call.thought)}
    frame = call.arguments.get("frame")
    return bool(named and call.name not in named) or bool(frames and isinstance(frame, int) and frame not in frames)

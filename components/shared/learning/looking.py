"""Whether an episode looked at what its question is about."""

from __future__ import annotations

from components.shared.learning.episode import Episode

COVERED = 0.9
"""Share of the evidence a crop must show to count as a look at it."""


def saw_evidence(episode: Episode) -> bool:
    """Whether a successful call's box covers the evidence."""
    evidence = episode.question.evidence_box
    boxes = [call.arguments.get("box") for call in episode.calls if call.ok]
    return evidence is not None and any(covers(box, evidence) for box in boxes)


def covers(box: object, evidence: tuple[int, int, int, int]) -> bool:
    """Whether a box (x0, y0, x1, y1) shows nearly all of another."""
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(isinstance(x, int | float) for x in box):
        return False
    x0, y0, x1, y1 = evidence
    width, height = min(x1, box[2]) - max(x0, box[0]), min(y1, box[3]) - max(y0, box[1])
    return width > 0 and height > 0 and width * height >= COVERED * (x1 - x0) * (y1 - y0)

"""The quality filter: what is kept, and why the rest is not.

Every rejection has one reason, the first that applies:

    schema              the turns make no valid trajectory, or the answer is not of the question's form
    operation failed    a call's execution failed (`operation failed: <code>`)
    not supported       taking the crop away would cost nothing (evidence.py)
    length              too many characters or turns
    duplicate           equal text and frames that look alike
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from components.data_synthesis.trajectories.config import TrajectoriesConfig
from components.data_synthesis.trajectories.draft import Draft
from components.shared.runtime.config import canonical_json
from components.shared.samples.clip import Clip
from components.shared.samples.trajectory import Trajectory

OPERATION_KEYS = ("operation", "start_s", "end_s", "next_operation")


def judge(draft: Draft, clip: Clip, config: TrajectoriesConfig, labels: Sequence[str]) -> tuple[Trajectory | None, str]:
    """The finished trajectory, or None and the reason it is rejected (duplicates are found later, over all clips)."""
    if draft.failed:
        return None, f"operation failed: {draft.failed}"
    try:
        trajectory = draft.finish(clip, config)
    except ValidationError:
        return None, "schema"
    if not well_formed(trajectory, clip.meta.duration_s, labels):
        return None, "schema"
    if draft.support is not None and draft.support < 1:
        return None, "not supported"
    if len(trajectory.turns) > config.max_turns or len(spoken(trajectory)) > config.max_chars:
        return None, "length"
    return trajectory, ""


def well_formed(trajectory: Trajectory, duration_s: float, labels: Sequence[str]) -> bool:
    """Calls come first, each with a result; the answer is last and of the question's form."""
    *calls, last = trajectory.turns
    if any(turn.call is None or turn.result is None or turn.answer is not None for turn in calls):
        return False
    if last.call is not None or last.answer is None:
        return False
    if trajectory.question.kind == "closeup":
        return tuple(last.answer) == ("value",) and last.answer["value"] in trajectory.question.choices
    if tuple(last.answer) != OPERATION_KEYS:
        return False
    following = last.answer["next_operation"]
    known = last.answer["operation"] in labels and (following is None or following in labels)
    return known and 0 <= last.answer["start_s"] < last.answer["end_s"] <= duration_s + 0.05


def spoken(trajectory: Trajectory) -> str:
    """All text the policy would say."""
    parts = []
    for turn in trajectory.turns:
        parts.append(turn.thought)
        parts.append(canonical_json(turn.call.model_dump(mode="json")) if turn.call else "")
        parts.append(canonical_json(turn.answer) if turn.answer else "")
    return "\n".join(parts)


class DuplicateFilter:
    """Remembers what was kept; two trajectories are duplicates when text is equal and pictures look alike."""

    def __init__(self, max_bits: int) -> None:
        self._max_bits = max_bits
        self._seen: dict[str, list[int]] = {}

    def is_duplicate(self, trajectory: Trajectory, frames_hash: int) -> bool:
        """Whether an earlier trajectory is alike; remembers this one where not."""
        text = trajectory.question.text + "\n" + spoken(trajectory)
        hashes = self._seen.setdefault(text, [])
        if any((frames_hash ^ other).bit_count() <= self._max_bits for other in hashes):
            return True
        hashes.append(frames_hash)
        return False

"""Trajectories of one clip: every operation in them is executed on the clip's source frames.

Kinds: `direct` (the answer alone), `evidence` (a zoom to the evidence, or for a share of the close-ups elsewhere, then
the answer), `correction` (a wrong zoom, recognised, then the right one), `multi` (a zoom on both sides of a boundary).
Which kind a clip gets is drawn from the seed and the clip's id alone, so it depends on neither order nor workers.
What is imitated: every turn with `learn`; a zoom that is known to be wrong has `learn` false, the answer after it true,
so that the form of answering after a crop is taught and the wrong choice is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from components.data_synthesis.trajectories.config import TrajectoriesConfig
from components.data_synthesis.trajectories.evidence import (
    cell_box,
    cell_of,
    detail_gain,
    motion_cells,
    strongest_motion,
)
from components.data_synthesis.trajectories.questions import operation_answer, snap
from components.data_synthesis.trajectories.stages import difficulty, stage
from components.data_synthesis.trajectories.truth import TagSight
from components.shared.operations import OperationResult, Registry
from components.shared.samples.clip import Clip
from components.shared.samples.trajectory import Call, Question, ToolResult, Trajectory, Turn

Kind = Literal["direct", "evidence", "correction", "multi"]
THOUGHTS: dict[str, dict[str, str]] = {
    "none": {"look": "", "wrong": "", "motion": "", "other": ""},
    "short": {"look": "look closer", "wrong": "not there", "motion": "look at the hands", "other": "and here"},
    "full": {
        "look": "The detail is too small in this view, so I look closer at source resolution.",
        "wrong": "This crop does not show what I am looking for; I look at another place.",
        "motion": "The work moves here, so I look closer at it.",
        "other": "The work changes, so I look at the other side of the change too.",
    },
}


@dataclass
class Draft:
    """A trajectory before the filter.

    Attributes:
        support: How much the crops matter, over what is asked (1 or more is enough); None where nothing is claimed.
        failed: Code of the operation that failed, '' where all went well.
    """

    key: str
    question: Question
    kind: Kind
    turns: list[Turn] = field(default_factory=list)
    images: dict[str, np.ndarray] = field(default_factory=dict)
    drawings: list[tuple[int, tuple[int, int, int, int]]] = field(default_factory=list)
    support: float | None = None
    failed: str = ""

    def finish(self, clip: Clip, config: TrajectoriesConfig) -> Trajectory:
        """The trajectory with its stage; raises ValidationError where it is malformed."""
        turns = tuple(self.turns)
        score = difficulty(clip.meta, turns, about_segment=self.question.kind == "operation")
        return Trajectory(
            trajectory_id=self.key,
            question=self.question,
            kind=self.kind,
            stage=stage(score, config.intermediate_from, config.complex_from),
            turns=turns,
            frame_times_s=clip.meta.frame_times_s,
            provenance=clip.meta.provenance,
        )


class SourceFrames(Sequence[np.ndarray]):
    """A clip's source frames, decoded when first touched."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._decoded: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._clip.source_jpegs)

    def __getitem__(self, index: Any) -> Any:
        """Frame `index`, uint8 RGB (height, width, 3)."""
        if index not in self._decoded:
            self._decoded[index] = self._clip.source_frame(index)
        return self._decoded[index]


def draw(seed: int, *names: str) -> np.random.Generator:
    """Random numbers that depend on the seed and names only."""
    digest = hashlib.sha256("\0".join((str(seed), *names)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


class Builder:
    """Makes drafts of one clip."""

    def __init__(self, clip: Clip, config: TrajectoriesConfig, registry: Registry) -> None:
        self.clip, self.config, self.registry = clip, config, registry
        self.frames = SourceFrames(clip)
        self.thoughts = THOUGHTS[config.thoughts]

    def operation(self, question: Question) -> list[Draft]:
        """Drafts for the operation question: always the direct one, for a share one that looks first."""
        answer = operation_answer(self.clip.meta, snapped=True)
        direct = Draft(f"{self.clip.meta.clip_id}-direct", question, "direct", [Turn(answer=answer)])
        pick = draw(self.config.seed, self.clip.meta.clip_id, "operation").random()
        if pick < self.config.multi_share and self.clip.meta.has_boundary:
            return [direct, self._motion(question, answer, "multi")]
        if pick < self.config.multi_share + self.config.evidence_share:
            return [direct, self._motion(question, answer, "evidence")]
        return [direct]

    def closeup(self, question: Question, sight: TagSight) -> Draft:
        """The draft for a close-up question, of the kind that the mixture draws."""
        rng = draw(self.config.seed, self.clip.meta.clip_id, "closeup")
        pick = rng.random()
        answer = Turn(answer=question.truth)
        key = f"{self.clip.meta.clip_id}-close"
        if pick < self.config.closeup_none:
            return Draft(key, question, "direct", [answer])
        wrong_from = self.config.closeup_none + self.config.closeup_right
        corrected_from = wrong_from + self.config.closeup_wrong
        kind: Kind = "correction" if pick >= corrected_from else "evidence"
        draft = Draft(key, question, kind)
        cell = cell_of(sight.box, self.config.grid)
        frame = middle(sight.frames)
        if cell is None:
            draft.failed = "evidence straddles cells"
            return draft
        wrong = pick >= wrong_from
        if wrong:
            other = self._other_cell(cell, rng)
            self._zoom(draft, frame, other, "look", learn=self.config.closeup_wrong_learn and kind == "evidence")
        if not wrong or kind == "correction":
            self._zoom(draft, frame, cell, "wrong" if wrong else "look")
            gain = detail_gain(self.frames[frame], self.clip.view_frames[frame], sight.box)
            draft.support = gain / self.config.detail_gain
        draft.turns.append(answer)
        return draft

    def _other_cell(self, cell: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        """Any cell but this one, all equally likely."""
        number = cell[1] * self.config.grid + cell[0]
        other = int(rng.integers(self.config.grid**2 - 1))
        row, column = divmod(other + (other >= number), self.config.grid)
        return column, row

    def _motion(self, question: Question, answer: dict[str, Any], kind: Kind) -> Draft:
        """A draft that zooms to where most moves, for `multi` on both sides of the segment's inner end."""
        meta = self.clip.meta
        draft = Draft(f"{meta.clip_id}-{kind}", question, kind)
        height, width = self.frames[0].shape[:2]
        cells = motion_cells(self.clip.view_frames, width, height, self.config.grid)
        first, last = (snap(time, meta.frame_times_s) for time in meta.segment_s)
        end = len(meta.frame_times_s) - 1
        spans = [(first, last)]
        if kind == "multi":
            spans.append((last, end) if last < end else (0, first))
        gains = []
        for number, (low, high) in enumerate(spans):
            frame, column, row, gain = strongest_motion(cells, low, max(high, low))
            gains.append(gain)
            self._zoom(draft, frame, (column, row), "other" if number else "motion")
        draft.support = min(gains) / self.config.support_gain
        draft.turns.append(Turn(answer=answer))
        return draft

    def _zoom(self, draft: Draft, frame: int, cell: tuple[int, int], thought: str, *, learn: bool = True) -> None:
        """Execute a ZOOM_IN and append it as a turn."""
        box = cell_box(*cell, self.config.grid)
        call = Call(name="ZOOM_IN", arguments={"frame": frame, "box": list(box)})
        result: OperationResult = self.registry.execute(call.name, call.arguments, self.frames)
        image = f"tool{len(draft.images)}" if result.image is not None else None
        if image is not None and result.image is not None:
            draft.images[image] = result.image
        if result.error is not None:
            draft.failed = result.error.code
        shown = ToolResult(ok=result.ok, text=result.text, image=image)
        draft.turns.append(Turn(thought=self.thoughts[thought], call=call, result=shown, learn=learn))
        draft.drawings.append((frame, box))


def middle(frames: Sequence[int]) -> int:
    """The middle one of the frames that show something."""
    return frames[len(frames) // 2]

"""Trajectories of one clip: every operation in them is executed on the clip's source frames.

Kinds: `direct` (the answer alone), `evidence` (a look at the evidence, or for a share of the close-ups elsewhere, then
the answer), `correction` (a wrong look, recognised, then the right one), `multi` (a look on both sides of a boundary).
Which kind a clip gets is drawn from the seed and the clip's id alone, so it depends on neither order nor workers.
What is imitated: every turn with `learn`; a zoom that is known to be wrong has `learn` false, the answer after it true,
so that the form of answering after a crop is taught and the wrong choice is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from components.data_synthesis.trajectories.config import TrajectoriesConfig
from components.data_synthesis.trajectories.draft import Draft, Kind
from components.data_synthesis.trajectories.evidence import (
    BoxInt,
    cell_box,
    detail_gain,
    motion_cells,
    overlaps,
    strongest_motion,
)
from components.data_synthesis.trajectories.looks import Looks
from components.data_synthesis.trajectories.questions import operation_answer, snap
from components.data_synthesis.trajectories.truth import Sight
from components.shared.operations import Registry
from components.shared.samples.clip import Clip
from components.shared.samples.trajectory import Question, Turn


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
        self.clip, self.config = clip, config
        self.frames = SourceFrames(clip)
        self.looks = Looks(self.frames, config, registry)

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

    def closeup(self, question: Question, sight: Sight) -> Draft:
        """The draft for a close-up question, of the kind that the mixture draws."""
        suffix = "" if sight.detail == "tag" else f"-{sight.detail}"
        rng = draw(self.config.seed, self.clip.meta.clip_id, f"closeup{suffix}")
        pick = rng.random()
        answer = Turn(answer=question.truth)
        key = f"{self.clip.meta.clip_id}-close{suffix}"
        if pick < self.config.closeup_none:
            return Draft(key, question, "direct", [answer])
        wrong_from = self.config.closeup_none + self.config.closeup_right
        corrected_from = wrong_from + self.config.closeup_wrong
        kind: Kind = "correction" if pick >= corrected_from else "evidence"
        draft = Draft(key, question, kind)
        place = sight.place(self.config.grid)
        frame = middle(sight.frames)
        if place is None:
            draft.failed = "evidence straddles cells"
            return draft
        wrong = pick >= wrong_from
        if wrong:
            learn = self.config.closeup_wrong_learn and kind == "evidence"
            self.looks.zoom(draft, frame, self._elsewhere(place, rng), "look", learn=learn)
        if not wrong or kind == "correction":
            thought = "wrong" if wrong else "look"
            if sight.detail == "label" and "read" in self.config.looks:
                draft.support = self.looks.read(draft, frame, place, thought, sight.value)
            else:
                self.looks.zoom(draft, frame, place, thought)
                gain = detail_gain(self.frames[frame], self.clip.view_frames[frame], sight.box)
                draft.support = gain / self.config.detail_gain
        draft.turns.append(answer)
        return draft

    def _elsewhere(self, place: BoxInt, rng: np.random.Generator) -> BoxInt:
        """Any grid cell that shows nothing of a place, all equally likely."""
        cells = [
            cell_box(column, row, self.config.grid) for row, column in np.ndindex(self.config.grid, self.config.grid)
        ]
        others = [cell for cell in cells if not overlaps(cell, place)]
        return others[int(rng.integers(len(others)))]

    def _motion(self, question: Question, answer: dict[str, Any], kind: Kind) -> Draft:
        """A draft that looks where most moves, for `multi` on both sides of the segment's inner end."""
        meta = self.clip.meta
        draft = Draft(f"{meta.clip_id}-{kind}", question, kind)
        height, width = self.frames[0].shape[:2]
        cells = motion_cells(self.clip.view_frames, width, height, self.config.grid)
        first, last = (snap(time, meta.frame_times_s) for time in meta.segment_s)
        end = len(meta.frame_times_s) - 1
        spans = [(first, last)]
        if kind == "multi":
            spans.append((last, end) if last < end else (0, first))
        ways = [look for look in self.config.looks if look != "read"]
        way = ways[int(draw(self.config.seed, meta.clip_id, "look").integers(len(ways)))] if len(ways) > 1 else ways[0]
        gains = []
        for number, (low, high) in enumerate(spans):
            frame, column, row, gain = strongest_motion(cells, low, max(high, low))
            place = cell_box(column, row, self.config.grid)
            thought = "other" if number else "motion"
            gains.append(gain / self.config.support_gain)
            if way == "describe":
                self.looks.describe(draft, frame, place, thought)
            elif way == "track":
                far = max(low, high) if max(low, high) - frame >= frame - low else low
                gains.append(self.looks.track(draft, frame, place, far, thought))
            else:
                self.looks.zoom(draft, frame, place, thought)
        draft.support = min(gains)
        draft.turns.append(Turn(answer=answer))
        return draft


def middle(frames: Sequence[int]) -> int:
    """The middle one of the frames that show something."""
    return frames[len(frames) // 2]

"""A trajectory under way: its turns, what its operations returned, and how much they matter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from components.data_synthesis.trajectories.config import TrajectoriesConfig
from components.data_synthesis.trajectories.stages import difficulty, stage
from components.shared.samples.clip import Clip
from components.shared.samples.trajectory import Question, Trajectory, Turn

Kind = Literal["direct", "evidence", "correction", "multi"]


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

"""Ways of looking: each executes its operations on the clip's source frames and appends them to a draft as turns.

    zoom      ZOOM_IN on a box
    describe  SEGMENT_OBJECT_AT on what moves, then GET_PROPERTIES of the box it found
    track     TRACK_OBJECT from what moves to the farther end of the stretch
    read      READ_TEXT in a box

What an operation returned is what the turn shows, arguments of a second call come from the first one's result, and an
operation that fails marks the draft as failed: nothing is made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from components.data_synthesis.trajectories.config import TrajectoriesConfig
from components.data_synthesis.trajectories.draft import Draft
from components.data_synthesis.trajectories.evidence import BoxInt, moving_box
from components.shared.operations import OperationResult, Registry
from components.shared.samples.trajectory import Call, ToolResult, Turn

THOUGHTS: dict[str, dict[str, str]] = {
    "none": {"look": "", "wrong": "", "motion": "", "other": "", "measure": ""},
    "short": {
        "look": "look closer",
        "wrong": "not there",
        "motion": "look at the hands",
        "other": "and here",
        "measure": "what is it",
    },
    "full": {
        "look": "The detail is too small in this view, so I look closer at source resolution.",
        "wrong": "This crop does not show what I am looking for; I look at another place.",
        "motion": "The work moves here, so I look closer at it.",
        "other": "The work changes, so I look at the other side of the change too.",
        "measure": "I have found what moves; its size, colour and shape say what it is.",
    },
}
NOT_FOUND = "nothing that moves stands out"


class Looks:
    """Looks at one clip.

    Args:
        frames: Source frames, uint8 RGB.
        config: Thoughts, and what a track must cover.
        registry: Executes the operations.
    """

    def __init__(self, frames: Sequence[np.ndarray], config: TrajectoriesConfig, registry: Registry) -> None:
        self._frames, self._config, self._registry = frames, config, registry
        self._thoughts = THOUGHTS[config.thoughts]

    def zoom(self, draft: Draft, frame: int, box: BoxInt, thought: str, *, learn: bool = True) -> None:
        """Crop a box."""
        self._execute(draft, "ZOOM_IN", {"frame": frame, "box": list(box)}, thought, learn=learn)
        draft.drawings.append((frame, box))

    def read(self, draft: Draft, frame: int, box: BoxInt, thought: str, text: str) -> float:
        """Read a label; the support: 1 where what was read holds the text, 0 where it does not."""
        result = self._execute(draft, "READ_TEXT", {"frame": frame, "box": list(box)}, thought)
        draft.drawings.append((frame, box))
        return float(result.ok and text in "".join(result.text.split()))

    def describe(self, draft: Draft, frame: int, cell: BoxInt, thought: str) -> None:
        """Segment what moves in a cell, then measure it."""
        target = self._moving(frame, cell)
        if target is None:
            draft.failed = draft.failed or NOT_FOUND
            return
        point = {"x": (target[0] + target[2]) // 2, "y": (target[1] + target[3]) // 2}
        found = self._execute(draft, "SEGMENT_OBJECT_AT", {"frame": frame, **point}, thought)
        if found.ok:
            box = [round(value) for value in found.data["box"]]
            self._execute(draft, "GET_PROPERTIES", {"frame": frame, "box": box}, "measure")
            draft.drawings.append((frame, (box[0], box[1], box[2], box[3])))

    def track(self, draft: Draft, frame: int, cell: BoxInt, last: int, thought: str) -> float:
        """Follow what moves in a cell to frame `last`, maybe backwards; the support: its travel over what is asked."""
        target = self._moving(frame, cell)
        if target is None or last == frame:
            draft.failed = draft.failed or NOT_FOUND
            return 0.0
        result = self._execute(draft, "TRACK_OBJECT", {"frame": frame, "box": list(target), "to": last}, thought)
        draft.drawings.append((frame, target))
        if not result.ok or result.data["lost"]:
            return 0.0
        begin, end = (
            np.asarray(result.data["boxes"][index]["box"], float).reshape(2, 2).mean(axis=0) for index in (0, -1)
        )
        return float(np.abs(end - begin).max()) / self._config.track_travel

    def _moving(self, frame: int, cell: BoxInt) -> BoxInt | None:
        other = frame + 1 if frame + 1 < len(self._frames) else frame - 1
        return moving_box(self._frames[other], self._frames[frame], cell)

    def _execute(
        self, draft: Draft, name: str, arguments: dict[str, Any], thought: str, *, learn: bool = True
    ) -> OperationResult:
        """Execute a call and append it as a turn."""
        call = Call(name=name, arguments=arguments)
        result = self._registry.execute(name, arguments, self._frames)
        image = f"tool{len(draft.images)}" if result.image is not None else None
        if image is not None and result.image is not None:
            draft.images[image] = result.image
        if result.error is not None:
            draft.failed = draft.failed or result.error.code
        shown = ToolResult(ok=result.ok, text=result.text, image=image)
        draft.turns.append(Turn(thought=self._thoughts[thought], call=call, result=shown, learn=learn))
        return result

"""The sheet of examples: every word of a trajectory can be read on it."""

from __future__ import annotations

import numpy as np
import pytest

from components.data_synthesis.trajectories.examples import SHEET_WIDTH, drawn_width, row, wrapped
from components.data_synthesis.trajectories.shard_work import Made
from components.shared.samples import Call, Question, ToolResult, Trajectory, Turn
from components.shared.samples.jpeg import encode_jpeg

ANSWER = {
    "operation": "Attach Shipping Label", "start_s": 1.333, "end_s": 4.667, "next_operation": "Put on Back Table",
}  # fmt: skip


def made(num_looks: int, thought: str) -> Made:
    question = Question(
        question_id="c-op", clip_id="c", split="train", kind="operation", text="Which operation?", truth=ANSWER
    )
    call = Call(name="ZOOM_IN", arguments={"frame": 8, "box": [0, 0, 250, 250]})
    turn = Turn(thought=thought, call=call, result=ToolResult(ok=True, text="frame 8"))
    trajectory = Trajectory(
        trajectory_id="c-multi", question=question, kind="multi", stage="complex",
        turns=(*[turn] * num_looks, Turn(answer=ANSWER)), frame_times_s=(0.0, 1.0), provenance="synthetic",
    )  # fmt: skip
    grey = encode_jpeg(np.full((336, 448, 3), 200, np.uint8), quality=90)
    return Made(trajectory, 0, grey, {f"tool{index}": grey for index in range(num_looks)}, scene_jpeg=grey)


@pytest.mark.parametrize("num_looks", [1, 4])
def test_a_row_holds_all_pictures_and_ends_no_line_at_its_edge(num_looks: int) -> None:
    """Four looks and a long thought: the pictures shrink, the row grows, and the last columns and lines stay white."""
    item = made(num_looks, "where two hands and one label meet there is most to see " * 4)
    pictures = {name: np.full((336, 448, 3), 200, np.uint8) for name in ("scene", *item.images)}
    drawn = row(item, pictures)
    assert drawn.shape[1] == SHEET_WIDTH
    assert (drawn[:, -4:] == 255).all() and (drawn[-4:, -300:] == 255).all()
    starts = np.flatnonzero(np.diff((drawn[10] == 200).all(axis=1).astype(int)) == 1)
    assert len(starts) + 1 == 1 + num_looks, "every picture is there"


@pytest.mark.parametrize("text", ['{"operation": "Attach Shipping Label", "start_s": 1.333}', "W" * 90, "one"])
def test_a_wrapped_text_keeps_every_letter_and_its_width(text: str) -> None:
    lines = wrapped(text, 200)
    assert all(drawn_width(line) <= 200 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")

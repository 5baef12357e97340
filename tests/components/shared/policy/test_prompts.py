import numpy as np
import pytest

from components.shared.policy.answers import parse_reply
from components.shared.policy.prompts import (
    OPERATION_ASK,
    answer_text,
    call_text,
    conversation_for,
    conversation_of,
    instructions,
    operation_question,
    snapped,
)
from components.shared.samples.trajectory import Call, Question, ToolResult, Trajectory, Turn

TIMES = (0.0, 0.32, 0.64)
TRUTH = {"operation": "Picking", "start_s": 0.3, "end_s": 0.6, "next_operation": None}


def question(text="Which?"):
    return Question(question_id="q", clip_id="c", split="train", kind="operation", text=text, truth=TRUTH)


def test_exact_texts():
    assert answer_text(TRUTH | {"next_operation": "Scan Label"}) == (
        '{"operation": "Picking", "start_s": 0.3, "end_s": 0.6, "next_operation": "Scan Label"}'
    )
    assert answer_text({"value": "diagonal"}) == '{"value": "diagonal"}'
    assert call_text(Call(name="ZOOM_IN", arguments={"frame": 8, "box": [250, 0, 500, 250]})) == (
        '{"name": "ZOOM_IN", "arguments": {"frame": 8, "box": [250, 0, 500, 250]}}'
    )


@pytest.mark.parametrize("time, expected", [(0.0, 0.0), (0.2, 0.32), (0.47, 0.32), (5.0, 0.64)])
def test_snapping_takes_the_nearest_frame(time, expected):
    assert snapped({"operation": "x", "start_s": time}, TIMES)["start_s"] == expected


def test_a_close_up_answer_has_nothing_to_snap():
    assert snapped({"value": "diagonal"}, TIMES) == {"value": "diagonal"}


def test_a_questions_own_text_is_asked():
    view = np.zeros((3, 56, 56, 3), np.uint8)
    (message,) = conversation_for(question(), view, TIMES, ("Picking",))
    assert (message.text, len(message.images), message.image_times_s) == ("Which?", 3, TIMES)
    assert conversation_for("", view, TIMES)[0].text == OPERATION_ASK
    assert conversation_for("", view, TIMES, ("A", "B"))[0].text == operation_question(("A", "B"))


def test_a_trajectory_becomes_a_conversation_that_learns_what_it_should():
    wrong = Call(name="ZOOM_IN", arguments={"frame": 0, "box": [0, 0, 250, 250]})
    crop = np.zeros((112, 112, 3), np.uint8)
    trajectory = Trajectory(
        trajectory_id="t",
        question=question(),
        kind="correction",
        stage="complex",
        turns=(
            Turn(thought="look", call=wrong, result=ToolResult(ok=True, text="seen", image="tool0"), learn=False),
            Turn(answer=TRUTH),
        ),
        frame_times_s=TIMES,
        provenance="synthetic",
    )
    asked, call, shown, answer = conversation_of(trajectory, np.zeros((3, 56, 56, 3), np.uint8), {"tool0": crop})
    assert asked.role == "user"
    assert (call.learn, call.text) == (False, f"<think>look</think>{call_text(wrong)}")
    assert (shown.role, shown.text, len(shown.images)) == ("tool", "seen", 1)
    assert answer.learn
    assert parse_reply(answer.text).answer == TRUTH | {"start_s": 0.3, "end_s": 0.6}


def test_instructions_show_an_answer_that_parses():
    text = instructions(("Picking", "Close Box"))
    start = text.index("{")
    reply = parse_reply(text[start:], labels=("Picking", "Close Box"))
    assert reply.answer is not None

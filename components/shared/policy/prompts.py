"""Questions, calls and answers as text, and whole trajectories as conversations.

Role: the one place that fixes the exact wording, because a tiny tokenizer holds these fragments as single tokens and
the parser (answers.py) reads them back. Nothing here knows a step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from components.shared.policy.interface import Conversation, Message
from components.shared.samples.trajectory import Call, Question, ToolResult, Trajectory, Turn

OPERATION_ASK = "Which operation is under way, when does it start and end, and what comes next?"
CAPTION_ASK = "What is under way at each time?"


def operation_question(labels: Sequence[str] = ()) -> str:
    """The question about a window, as trajectories ask it; with `labels`, the allowed answers are named as well."""
    return f"{OPERATION_ASK} Operations: {', '.join(labels)}." if labels else OPERATION_ASK


def instructions(labels: Sequence[str]) -> str:
    """The system text for a downloaded model, which has not been trained on these formats from the start."""
    example = {"operation": labels[0] if labels else "", "start_s": 0.0, "end_s": 5.0, "next_operation": None}
    return (
        "You watch clips of people at work; the time of each frame in seconds stands before it. Answer with one JSON "
        f"object such as {answer_text(example)}. Operations: {', '.join(labels)}. To look closer at a frame first, "
        'write {"name": "ZOOM_IN", "arguments": {"frame": 8, "box": [250, 0, 500, 250]}}, the box in thousandths of '
        "the frame."
    )


def answer_text(answer: Mapping[str, Any]) -> str:
    """An answer exactly as a policy writes it; times rounded to a tenth of a second."""
    if "operation" not in answer:
        return json.dumps(dict(answer), ensure_ascii=False)
    ordered = {
        "operation": answer["operation"],
        "start_s": round(float(answer["start_s"]), 1),
        "end_s": round(float(answer["end_s"]), 1),
        "next_operation": answer.get("next_operation"),
    }
    return json.dumps(ordered, ensure_ascii=False)


def snapped(answer: Mapping[str, Any], frame_times_s: Sequence[float]) -> dict[str, Any]:
    """The answer with start and end moved to the nearest sampled frame's time, as training targets have them."""
    result = dict(answer)
    for key in ("start_s", "end_s"):
        if key in result and frame_times_s:
            result[key] = min(frame_times_s, key=partial(_distance, float(result[key])))
    return result


def _distance(wanted: float, time: float) -> float:
    return abs(time - wanted)


def call_text(call: Call) -> str:
    """A call exactly as a policy writes it."""
    return json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)


def turn_text(turn: Turn, frame_times_s: Sequence[float] = ()) -> str:
    """A turn of the policy: `<think>...</think>` where there is a thought, then the call or the answer."""
    thought = f"<think>{turn.thought}</think>" if turn.thought else ""
    if turn.call is not None:
        return thought + call_text(turn.call)
    return thought + (answer_text(snapped(turn.answer, frame_times_s)) if turn.answer is not None else "")


def conversation_for(
    question: Question | str,
    view_frames: np.ndarray,
    frame_times_s: Sequence[float],
    labels: Sequence[str] = (),
) -> Conversation:
    """The conversation a policy is asked to continue.

    Args:
        question: A question (its own text is used), or a text; an empty text asks for the operation.
        view_frames: uint8 (frames, size, size, 3).
        frame_times_s: Time of each frame.
        labels: Named in the question only where the question has no text of its own and labels are given.
    """
    text = (question if isinstance(question, str) else question.text) or operation_question(labels)
    times = tuple(float(time) for time in frame_times_s)
    return (Message("user", text, images=tuple(view_frames), image_times_s=times),)


def tool_message(result: ToolResult, image: np.ndarray | None = None) -> Message:
    """What executing a call gave, as the policy sees it: the image, then the text."""
    return Message("tool", result.text, images=() if image is None else (image,))


def conversation_of(
    trajectory: Trajectory, view_frames: np.ndarray, tool_images: Mapping[str, np.ndarray] | None = None
) -> Conversation:
    """A whole trajectory as a conversation; turns with `learn` False are shown and not imitated."""
    messages = list(conversation_for(trajectory.question, view_frames, trajectory.frame_times_s))
    for turn in trajectory.turns:
        messages.append(Message("assistant", turn_text(turn, trajectory.frame_times_s), learn=turn.learn))
        if turn.result is not None:
            image = (tool_images or {}).get(turn.result.image) if turn.result.image else None
            messages.append(tool_message(turn.result, image))
    return tuple(messages)

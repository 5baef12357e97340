"""A trajectory: question, thoughts, operations with their executed results, answer (chain of thought and action, CoTA).

In a WebDataset shard a trajectory with key K is the members

    K.json          Trajectory
    K.view.jpg      the clip's policy frames (see clip.py)
    K.tool0.jpg ... the image an operation returned, numbered by turn

Beside the shards stand `questions-<split>.jsonl` (one `Question` a line, train / validation / test): what reinforcement
and evaluation ask. A question's `truth` comes from the annotation, or for close-up questions from the twin's scene.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from components.shared.runtime.config import Section

QuestionKind = Literal["operation", "closeup"]
"""`operation`: which operation, when, what next. `closeup`: a detail only visible at source resolution."""


class Question(Section):
    """A question about one clip, with its true answer."""

    question_id: str
    clip_id: str
    split: Literal["train", "validation", "test", "canary"]
    kind: QuestionKind
    text: str
    truth: dict[str, Any]
    """operation: {"operation", "start_s", "end_s", "next_operation"}; closeup: {"value": str}."""
    choices: tuple[str, ...] = ()
    """All values a close-up answer can take (chance is 1 / len)."""
    evidence_box: tuple[int, int, int, int] | None = None
    """Where the evidence is, in thousandths of the source frame (x0, y0, x1, y1); never shown to a policy."""


class Call(Section):
    """One operation the policy asks for."""

    name: str
    arguments: dict[str, Any]


class ToolResult(Section):
    """What executing the call gave."""

    ok: bool
    text: str = ""
    image: str | None = None
    """Member name suffix (`tool0`) of the returned image."""


class Turn(Section):
    """One turn of the policy: a thought, then either a call (with its result) or the answer."""

    thought: str = ""
    call: Call | None = None
    result: ToolResult | None = None
    answer: dict[str, Any] | None = None
    learn: bool = True
    """False for turns that are shown but not imitated (a deliberately wrong crop)."""


class Trajectory(Section):
    """A whole trajectory; the last turn holds the answer."""

    trajectory_id: str
    question: Question
    kind: Literal["direct", "evidence", "correction", "multi"]
    stage: Literal["simple", "intermediate", "complex"]
    turns: tuple[Turn, ...] = Field(min_length=1)
    frame_times_s: tuple[float, ...]
    provenance: Literal["synthetic", "real"]
    author: str = "template"
    """Who wrote the thoughts: `template`, or the teacher model's name."""

"""The conversations of the second stage: plain answers, captions, calls, reading a crop.

Role: teaches every format before LoRA has to (LoRA on frozen, tied embeddings was slow to learn a new wrapper).
- answer: the operation question with its answer, times on sampled frames.
- caption: all segments of the window as text.
- reading: a close-up question, the right crop already shown (that call is not learned), the value learned.
- guessing: the same without a crop: the value cannot be known, which is what is learned.
- calling: a close-up question and a call of a random cell: the format is learned, no preference for any cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.base_model.config import LanguageStageConfig
from components.base_model.material import GRID, ZOOM, Example, cell, evidence_cell
from components.shared.policy.interface import Conversation, Message
from components.shared.policy.prompts import CAPTION_ASK, answer_text, conversation_for, snapped, turn_text
from components.shared.samples.trajectory import Call, Turn

CLOSEUP_LESSONS = ("reading", "guessing", "calling")
CLOSEUP_SHARES = (0.6, 0.2, 0.2)


def answer_lesson(example: Example) -> Conversation:
    """Question and answer about the operation."""
    assert example.operation is not None
    times = example.meta.frame_times_s
    asked = conversation_for(example.operation, example.view, times)
    return (*asked, Message("assistant", answer_text(snapped(example.operation.truth, times))))


def caption_text(example: Example) -> str:
    """The window's segments in order: `Picking 0.0 1.3, Close Box 1.7 4.7`; unlabelled frames are left out."""
    runs: list[tuple[str, float, float]] = []
    for label, time in zip(example.meta.frame_labels, example.meta.frame_times_s):
        if runs and runs[-1][0] == label:
            runs[-1] = (label, runs[-1][1], time)
        else:
            runs.append((label, time, time))
    return ", ".join(f"{label} {start:.1f} {end:.1f}" for label, start, end in runs if label)


def caption_lesson(example: Example) -> Conversation:
    """All segments of the window."""
    asked = conversation_for(CAPTION_ASK, example.view, example.meta.frame_times_s)
    return (*asked, Message("assistant", caption_text(example)))


def closeup_lesson(
    example: Example, kind: str, rng: np.random.Generator, thoughts: Sequence[str] = ("",)
) -> Conversation:
    """A close-up question in one of CLOSEUP_LESSONS; calls think one of the trajectories' thoughts first."""
    assert example.closeup is not None
    asked = conversation_for(example.closeup, example.view, example.meta.frame_times_s)
    answer = Message("assistant", answer_text(example.closeup.truth))
    thought = thoughts[int(rng.integers(len(thoughts)))] if thoughts else ""
    if kind == "reading" and example.crops and example.closeup.evidence_box:
        frame = int(rng.choice(list(example.crops)))
        call = Call(name=ZOOM, arguments={"frame": frame, "box": evidence_cell(example.closeup)})
        shown = Message("tool", example.crop_texts[frame], images=(example.crops[frame],))
        return (*asked, Message("assistant", turn_text(Turn(thought=thought, call=call)), learn=False), shown, answer)
    if kind == "calling":
        call = random_call(len(example.view), rng)
        return (*asked, Message("assistant", turn_text(Turn(thought=thought, call=call))))
    return (*asked, answer)


def random_call(num_frames: int, rng: np.random.Generator) -> Call:
    """A look at a random cell of a random frame."""
    frame, row, column = (int(rng.integers(high)) for high in (num_frames, GRID, GRID))
    return Call(name=ZOOM, arguments={"frame": frame, "box": cell(column, row)})


@dataclass(frozen=True)
class Lesson:
    """A conversation, and label and time of each frame it shows first."""

    conversation: Conversation
    frame_labels: tuple[str, ...]
    frame_times_s: tuple[float, ...]


def lesson_of(conversation: Conversation, example: Example) -> Lesson:
    """A conversation about an example."""
    return Lesson(conversation, example.meta.frame_labels, example.meta.frame_times_s)


class Lessons:
    """Draws batches of lessons; the batch of a step depends on seed and step only."""

    def __init__(
        self, examples: Sequence[Example], config: LanguageStageConfig, thoughts: Sequence[str], seed: int
    ) -> None:
        self.asked = [example for example in examples if example.operation is not None]
        self.all = list(examples)
        self.closeups = [example for example in examples if example.closeup is not None]
        self.thoughts, self.seed = tuple(thoughts) or ("",), seed
        self.caption_share = config.caption_share
        self.closeup_share = config.closeup_share if self.closeups else 0.0

    def batch(self, step: int, size: int) -> list[Lesson]:
        """`size` lessons."""
        rng = np.random.default_rng([self.seed, 3, step])
        return [self.one(rng) for _ in range(size)]

    def one(self, rng: np.random.Generator) -> Lesson:
        """One random lesson."""
        share = rng.random()
        if share < self.closeup_share:
            example = self.closeups[rng.integers(len(self.closeups))]
            kind = str(rng.choice(CLOSEUP_LESSONS, p=CLOSEUP_SHARES))
            return lesson_of(closeup_lesson(example, kind, rng, self.thoughts), example)
        if share < self.closeup_share + self.caption_share or not self.asked:
            example = self.all[rng.integers(len(self.all))]
            return lesson_of(caption_lesson(example), example)
        example = self.asked[rng.integers(len(self.asked))]
        return lesson_of(answer_lesson(example), example)

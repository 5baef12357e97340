"""The conversations of the second stage: plain answers, captions, calls, reading a crop.

Role: teaches every format before LoRA has to (LoRA on frozen, tied embeddings was slow to learn a new wrapper).
- answer: the operation question with its answer, times on sampled frames.
- caption: all segments of the window as text.
- reading: a close-up question, the right crop already shown (that call is not learned), the value learned.
- guessing: the same without a crop: the value cannot be known, which is what is learned.
- calling: a close-up question and a call of the cell that shows the evidence.
- drills: the end of a reading lesson or a calling lesson, without the window's frames: short, so that a step has many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from components.base_model.config import LanguageStageConfig
from components.base_model.material import ZOOM, Example, evidence_cell
from components.shared.policy.interface import Conversation, Message
from components.shared.policy.prompts import CAPTION_ASK, answer_text, conversation_for, snapped, turn_text
from components.shared.samples.trajectory import Call, Turn

CLOSEUP_LESSONS = ("reading", "guessing", "calling")
CLOSEUP_SHARES = (0.4, 0.4, 0.2)


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
    if kind == "reading" and example.crops:
        frame = int(rng.choice(list(example.crops)))
        shown = Message("tool", example.crop_texts[frame], images=(example.crops[frame],))
        return (*asked, Message("assistant", look(example, frame, thoughts, rng), learn=False), shown, answer)
    if kind == "calling" and example.closeup.evidence_box:
        frame = int(rng.integers(len(example.view)))
        return (*asked, Message("assistant", look(example, frame, thoughts, rng)))
    return (*asked, answer)


class Facts(NamedTuple):
    """What an image shows, each as the text of one token; '' where it is not known."""

    label: str = ""
    """The operation under way."""
    start: str = ""
    """Time of the first frame of this label's run."""
    value: str = ""
    """The close-up's value (crops only)."""


@dataclass(frozen=True)
class Lesson:
    """A conversation, and the facts of its images in order."""

    conversation: Conversation
    facts: tuple[Facts, ...]


def lesson_of(conversation: Conversation, example: Example) -> Lesson:
    """A conversation that shows an example's frames first, and then crops of its evidence."""
    labels, times = example.meta.frame_labels, example.meta.frame_times_s
    value = str(example.closeup.truth["value"]) if example.closeup is not None else ""
    frames = [Facts(label, start if label else "") for label, start in zip(labels, run_starts(labels, times))]
    num_images = sum(len(message.images) for message in conversation)
    return Lesson(conversation, (*frames, *[Facts(value=value)] * (num_images - len(frames))))


def run_starts(labels: Sequence[str], times_s: Sequence[float]) -> list[str]:
    """For each frame the timestamp, as text, of the first frame of its run of equal labels."""
    starts: list[str] = []
    for index, (label, time) in enumerate(zip(labels, times_s)):
        starts.append(starts[-1] if index and labels[index - 1] == label else f"{time:.1f}")
    return starts


def read_drill(example: Example, rng: np.random.Generator) -> Lesson:
    """A close-up question, a crop of the evidence, the value."""
    assert example.closeup is not None
    frame = int(rng.choice(list(example.crops)))
    conversation = (
        Message("user", example.closeup.text),
        Message("tool", example.crop_texts[frame], images=(example.crops[frame],)),
        Message("assistant", answer_text(example.closeup.truth)),
    )
    return Lesson(conversation, (Facts(value=str(example.closeup.truth["value"])),))


def call_drill(example: Example, rng: np.random.Generator, thoughts: Sequence[str] = ("",)) -> Lesson:
    """A close-up question, a call of the cell that it asks about."""
    assert example.closeup is not None
    call = look(example, int(rng.integers(len(example.view))), thoughts, rng)
    return Lesson((Message("user", example.closeup.text), Message("assistant", call)), ())


def look(example: Example, frame: int, thoughts: Sequence[str], rng: np.random.Generator) -> str:
    """A call that looks at the evidence, one of the trajectories' thoughts before it."""
    assert example.closeup is not None
    call = Call(name=ZOOM, arguments={"frame": frame, "box": evidence_cell(example.closeup)})
    return turn_text(Turn(thought=thoughts[int(rng.integers(len(thoughts)))], call=call))


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
        self.cropped = [example for example in self.closeups if example.crops]

    def images(self) -> Iterator[np.ndarray]:
        """Every image that a lesson can show."""
        for example in self.all:
            yield from example.view
            yield from example.crops.values()

    def batch(self, step: int, size: int) -> list[Lesson]:
        """`size` lessons."""
        rng = np.random.default_rng([self.seed, 3, step])
        return [self.one(rng) for _ in range(size)]

    def drills(self, step: int, size: int) -> list[Lesson]:
        """`size` drills, reading and calling in turn; none where no example has crops."""
        rng = np.random.default_rng([self.seed, 6, step])
        if not self.cropped:
            return []
        chosen = [self.cropped[index] for index in rng.integers(len(self.cropped), size=size)]
        return [
            call_drill(example, rng, self.thoughts) if index % 2 else read_drill(example, rng)
            for index, example in enumerate(chosen)
        ]

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

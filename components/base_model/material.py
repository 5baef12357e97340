"""What pretraining reads: training clips with their questions in memory, validation clips for the figures.

Guarantee: people of the validation split never reach training material; the order is that of the shards, so the same
artifacts give the same material. Not guaranteed: all clips (`max_clips` takes them evenly spread).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from components.shared.learning.episode import SourceFrames
from components.shared.operations import Registry
from components.shared.runtime.errors import InputError
from components.shared.samples.clip import Clip, ClipMeta
from components.shared.samples.clip_shards import read_clips
from components.shared.samples.index import read_index
from components.shared.samples.reading import read_samples
from components.shared.samples.trajectory import Question, Trajectory
from components.shared.samples.trajectory_shards import read_questions

ZOOM = "ZOOM_IN"
GRID = 4
MAX_PHRASES = 64
log = logging.getLogger(__name__)


@dataclass
class Example:
    """A clip with its questions.

    Attributes:
        meta: The clip.
        view: uint8 (frames, size, size, 3).
        operation: The operation question, None where the clip is ambiguous.
        closeup: The close-up question, None where there is none.
        crops: What ZOOM_IN shows of the evidence cell on some frames, by frame index.
        crop_texts: What ZOOM_IN says beside each.
    """

    meta: ClipMeta
    view: np.ndarray = field(repr=False)
    operation: Question | None = None
    closeup: Question | None = None
    crops: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    crop_texts: dict[int, str] = field(default_factory=dict, repr=False)


def read_examples(
    clips: Path,
    trajectories: Path,
    split: str,
    limit: int,
    registry: Registry | None,
    *,
    crops_each: int = 2,
    seed: int = 0,
) -> list[Example]:
    """Clips of a split with their questions; at most `limit`, evenly spread over the shards.

    Args:
        clips: Clips artifact.
        trajectories: Trajectories artifact (its questions).
        split: train or validation.
        limit: Most clips.
        registry: Executes ZOOM_IN on the evidence; None leaves the crops out.
        crops_each: Crops of the evidence a clip.
        seed: Which frames are cropped.

    Raises:
        InputError: the split holds no clip.
    """
    questions: dict[str, dict[str, Question]] = {}
    for question in read_questions(trajectories, split):
        questions.setdefault(question.clip_id, {})[question.kind] = question
    total = read_index(clips).count(split)
    if not total:
        raise InputError(
            f"{clips} has no clip in split {split}, so nothing can be trained or measured on it.",
            remedy="Give more recordings, or other shares of the splits.",
        )
    rng = np.random.default_rng([seed, 11])
    examples = []
    for clip in spread(read_clips(clips, split), total, limit):
        asked = questions.get(clip.meta.clip_id, {})
        example = Example(clip.meta, clip.view_frames, asked.get("operation"), asked.get("closeup"))
        if registry is not None and example.closeup is not None:
            add_crops(example, clip, registry, rng, crops_each)
        examples.append(example)
    return examples


def spread(clips: Iterator[Clip], total: int, limit: int) -> Iterator[Clip]:
    """At most `limit` of `total` items, evenly spread."""
    for index, clip in enumerate(clips):
        if total <= limit or (index + 1) * limit // total > index * limit // total:
            yield clip


def add_crops(example: Example, clip: Clip, registry: Registry, rng: np.random.Generator, number: int) -> None:
    """Put what ZOOM_IN shows of the evidence on `number` random frames into the example."""
    question = example.closeup
    if question is None or question.evidence_box is None:
        return
    frames = SourceFrames(clip)
    for frame in sorted(int(index) for index in rng.permutation(len(frames))[:number]):
        result = registry.execute(ZOOM, {"frame": frame, "box": evidence_cell(question)}, frames)
        if result.ok and result.image is not None:
            example.crops[frame], example.crop_texts[frame] = result.image, result.text


def evidence_cell(question: Question) -> list[int]:
    """The grid cell, in thousandths, around the middle of a question's evidence: what trajectories zoom to."""
    assert question.evidence_box is not None
    x0, y0, x1, y1 = question.evidence_box
    column, row = (min(int((low + high) / 2 * GRID / 1000), GRID - 1) for low, high in ((x0, x1), (y0, y1)))
    return cell(column, row)


def cell(column: int, row: int) -> list[int]:
    """A grid cell as a call writes it."""
    return [round(1000 * edge / GRID) for edge in (column, row, column + 1, row + 1)]


@dataclass(frozen=True)
class Texts:
    """The wording of the material, each list distinct and sorted.

    Attributes:
        questions: Texts of questions.
        choices: Close-up values.
        thoughts: What trajectories think before a call.
        results: What operations say beside their image.
    """

    questions: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    thoughts: tuple[str, ...] = ()
    results: tuple[str, ...] = ()

    def phrases(self) -> tuple[str, ...]:
        """Texts worth a token of their own: those of a kind that has few."""
        return tuple(
            text
            for kind in (self.questions, self.thoughts, self.results)
            if len(kind) <= MAX_PHRASES
            for text in kind
            if text
        )


def read_texts(trajectories: Path) -> Texts:
    """The wording of the training questions and trajectories; images are not decoded."""
    asked = read_questions(trajectories, "train")
    questions = {question.text for question in asked}
    choices = {choice for question in asked for choice in question.choices}
    thoughts: set[str] = set()
    results: set[str] = set()
    for record in read_index(trajectories).shards.get("train", ()):
        for _, members in read_samples(trajectories / record.name):
            for turn in Trajectory.model_validate_json(members["json"]).turns:
                if turn.call is not None:
                    thoughts.add(turn.thought)
                if turn.result is not None:
                    results.add(turn.result.text)
    return Texts(*(tuple(sorted(kind)) for kind in (questions, choices, thoughts, results)))

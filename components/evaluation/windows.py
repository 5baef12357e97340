"""The test windows and their truth, and what was answered about them; N windows, K labels.

All sliding windows are asked about, because a timeline without the ambiguous ones would leak where the boundaries are;
figures of single windows are taken over `scored` ones only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from components.shared.learning.metrics import UNPARSED, Answer
from components.shared.policy.answers import validate
from components.shared.runtime.errors import ArtifactError, InputError
from components.shared.samples import Clip, ClipMeta, Question, read_clips, read_questions
from components.shared.work.manifest import Manifest

SPLIT = "test"


@dataclass(frozen=True)
class Window:
    """One test window."""

    clip: Clip = field(repr=False)
    question: Question
    truth: Answer
    scored: bool

    @property
    def meta(self) -> ClipMeta:
        """The clip's metadata."""
        return self.clip.meta

    @property
    def session(self) -> str:
        """Person and session: what bootstrap draws."""
        return f"{self.meta.subject}/{self.meta.session}"

    @property
    def pixels(self) -> str:
        """Digest of what the policy sees: two windows are the same only where this is."""
        return hashlib.sha256(self.clip.view_jpeg).hexdigest()[:16]


@dataclass(frozen=True)
class Said:
    """What a policy answered about one question.

    Attributes:
        answer: Read answer, UNPARSED where it cannot be read.
        text: The last message, as written.
        confidence: Probability of the last message under the policy.
        calls: Operations used.
        failed: Whether one of them failed.
        looked: Whether a crop covered the evidence (close-up questions).
    """

    answer: Answer
    text: str = ""
    confidence: float = 0.0
    calls: int = 0
    failed: bool = False
    looked: bool = False
    value: str | None = None


@dataclass(frozen=True)
class Closeup:
    """One close-up question about a test clip."""

    question: Question
    clip: Clip = field(repr=False)

    @property
    def session(self) -> str:
        """Person and session: what bootstrap draws."""
        return f"{self.clip.meta.subject}/{self.clip.meta.session}"


def read_windows(
    clips: Path, trajectories: Path, manifest: Manifest, *, limit: int = 0, max_closeups: int = 0
) -> tuple[list[Window], list[Closeup]]:
    """Test windows in order of recording and time, and the test's close-up questions.

    Raises:
        InputError: the test split holds no operation question at all.
        ArtifactError: a question asks about a clip that is not there.
    """
    questions = list(read_questions(trajectories, SPLIT))
    asked = {question.clip_id: question for question in questions if question.kind == "operation"}
    if not asked:
        raise InputError(
            "the test split has no operation questions, so no model can be judged.",
            remedy="Give recordings of people (or videos) for the test split.",
        )
    text = next(iter(asked.values())).text
    found = sorted(read_clips(clips, SPLIT), key=lambda clip: (clip.meta.recording_id, clip.meta.start_s))
    by_id = {clip.meta.clip_id: clip for clip in found}
    check_belong(questions, by_id)
    closeups = [Closeup(question, by_id[question.clip_id]) for question in questions if question.kind == "closeup"]
    if 0 < limit < len(found):
        found = [found[i] for i in np.linspace(0, len(found) - 1, limit).astype(int)]
    if max_closeups < len(closeups):
        closeups = [closeups[i] for i in np.linspace(0, len(closeups) - 1, max_closeups).astype(int)]
    windows = []
    for clip in found:
        question = asked.get(clip.meta.clip_id)
        scored = question is not None and clip.meta.operation in manifest.labels and not clip.meta.ambiguous
        if question is None:
            question = Question(
                question_id=f"{clip.meta.clip_id}-unscored",
                clip_id=clip.meta.clip_id,
                split=SPLIT,
                kind="operation",
                text=text,
                truth={},
            )
        windows.append(Window(clip, question, truth_of(clip.meta), scored))
    return windows, closeups


def check_belong(questions: Sequence[Question], clips: Mapping[str, Clip]) -> None:
    """Refuse questions that were not made from these clips: most windows would silently go unscored."""
    strangers = [
        question.question_id
        for question in questions
        if question.clip_id not in clips
        or (question.kind == "operation" and question.truth["operation"] != clips[question.clip_id].meta.operation)
    ]
    if strangers:
        raise ArtifactError(
            f"{len(strangers)} of {len(questions)} test questions do not belong to these clips "
            f"(first: {strangers[0]}), so no figure would mean anything.",
            remedy="Use trajectories made from these clips.",
        )


def truth_of(meta: ClipMeta) -> Answer:
    """A window's true answer, times as annotated."""
    return Answer(meta.operation, meta.segment_s, meta.next_operation)


def read_answer(value: dict[str, Any] | None, labels: Sequence[str], duration_s: float) -> Answer:
    """A parsed answer, checked against labels and window; UNPARSED where it does not hold."""
    if value is None:
        return UNPARSED
    clean, _ = validate(value, labels=labels, kind="operation", duration_s=duration_s)
    if clean is None:
        return UNPARSED
    return Answer(clean["operation"], (float(clean["start_s"]), float(clean["end_s"])), clean["next_operation"])


def train_answers(trajectories: Path) -> list[Answer]:
    """True answers of the training questions: what the prior baseline draws from."""
    return [
        Answer(q.truth["operation"], (q.truth["start_s"], q.truth["end_s"]), q.truth.get("next_operation"))
        for q in read_questions(trajectories, "train")
        if q.kind == "operation"
    ]

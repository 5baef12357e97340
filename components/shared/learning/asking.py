"""Asking a policy the questions of a split, greedily and without operations: the figure that training watches.

Role: base_model and sft measure themselves on validation people with it. Evaluation asks with operations, baselines
and intervals; its figures, not these, decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from components.shared.learning.answer_figures import answer_figures
from components.shared.learning.rewards.task import best_constant_segment
from components.shared.policy.answers import parse_reply
from components.shared.policy.interface import Policy
from components.shared.policy.prompts import conversation_for
from components.shared.samples.clip_shards import read_clips
from components.shared.samples.trajectory import Question
from components.shared.samples.trajectory_shards import read_questions


@dataclass(frozen=True)
class Asked:
    """A question with what the policy sees."""

    question: Question
    view: np.ndarray = field(repr=False)
    times_s: tuple[float, ...]
    boundary: bool


def read_asked(clips: Path, trajectories: Path, split: str, limit: int, kind: str = "operation") -> list[Asked]:
    """At most `limit` questions of one kind, evenly spread over the split, in the clips' order."""
    questions = {
        question.clip_id: question for question in read_questions(trajectories, split) if question.kind == kind
    }
    ids = sorted(questions)
    kept = {ids[index * len(ids) // min(limit, len(ids))] for index in range(min(limit, len(ids)))} if ids else set()
    found = []
    for clip in read_clips(clips, split):
        if clip.meta.clip_id in kept:
            question = questions[clip.meta.clip_id]
            found.append(Asked(question, clip.view_frames, clip.meta.frame_times_s, clip.meta.has_boundary))
    return found


def constant_segment(trajectories: Path) -> tuple[float, float] | None:
    """The best constant segment of the training questions."""
    train = [question.truth for question in read_questions(trajectories, "train") if question.kind == "operation"]
    return best_constant_segment(train[:: max(1, len(train) // 2000)])


def ask(
    policy: Policy, asked: Sequence[Asked], labels: Sequence[str], *, batch: int = 64
) -> tuple[list[dict[str, Any] | None], list[str]]:
    """(parsed answers, texts), one a question; None where the text is no valid answer."""
    answers: list[dict[str, Any] | None] = []
    texts: list[str] = []
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        conversations = [conversation_for(item.question, item.view, item.times_s) for item in part]
        for item, generation in zip(part, policy.generate(conversations, temperature=0.0, max_new_tokens=48)):
            reply = parse_reply(generation.text, labels=labels, choices=item.question.choices, kind=item.question.kind)
            answers.append(reply.answer)
            texts.append(generation.text)
    return answers, texts


def operation_figures(
    policy: Policy, asked: Sequence[Asked], labels: Sequence[str], constant: tuple[float, float] | None
) -> dict[str, float]:
    """OCA, AA@1, tIoU@0.5 and their companions (see `answer_figures`)."""
    answers, _ = ask(policy, asked, labels)
    truths = [item.question.truth for item in asked]
    return answer_figures(truths, answers, [item.boundary for item in asked], constant)

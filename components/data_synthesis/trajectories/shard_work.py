"""One worker's share: the questions and judged trajectories of one clip shard.

A module of its own so that worker processes import nothing of the step's orchestration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from components.data_synthesis.trajectories.build import Builder, draw
from components.data_synthesis.trajectories.config import TrajectoriesConfig
from components.data_synthesis.trajectories.draft import Draft
from components.data_synthesis.trajectories.evidence import frames_hash
from components.data_synthesis.trajectories.quality import judge
from components.data_synthesis.trajectories.questions import closeup_question, operation_question
from components.data_synthesis.trajectories.truth import RecordingTruth, open_truth
from components.shared.operations import Registry, default_registry
from components.shared.samples.clip import Clip
from components.shared.samples.clip_shards import read_shard_clips
from components.shared.samples.jpeg import encode_jpeg
from components.shared.samples.trajectory import Question, Trajectory

TOOL_QUALITY = 95
SCENE_EVERY = 16
"""Two of so many trajectories keep their zoomed source frame, from which the examples are chosen."""


@dataclass(frozen=True)
class ShardJob:
    """What a worker needs."""

    shard: Path
    split: str
    truth: Path
    config: TrajectoriesConfig
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Made:
    """A kept trajectory with its members."""

    trajectory: Trajectory
    frames_hash: int
    view_jpeg: bytes = field(repr=False)
    images: dict[str, bytes] = field(repr=False)
    scene_jpeg: bytes = b""
    boxes: tuple[tuple[int, tuple[int, int, int, int]], ...] = ()


@dataclass
class ShardOutcome:
    """What one shard gave."""

    split: str
    num_clips: int = 0
    questions: list[Question] = field(default_factory=list)
    made: list[Made] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    no_question: Counter[str] = field(default_factory=Counter)


def work_on(job: ShardJob) -> ShardOutcome:
    """Questions of every clip of a shard; trajectories too in the train and validation splits."""
    registry = default_registry(job.config.operations)
    outcome = ShardOutcome(job.split)
    truths: dict[str, RecordingTruth | None] = {}
    for clip in read_shard_clips(job.shard):
        outcome.num_clips += 1
        recording = clip.meta.recording_id
        if recording not in truths:
            truths[recording] = open_truth(job.truth, recording) if job.config.closeups else None
        for draft in drafts_of(clip, truths[recording], job, registry, outcome):
            trajectory, reason = judge(draft, clip, job.config, job.labels)
            if trajectory is None:
                outcome.rejected[reason] += 1
            else:
                with_scene = len(outcome.made) % SCENE_EVERY < 2 and job.config.num_examples > 0
                outcome.made.append(made(trajectory, draft, clip, with_scene=with_scene))
    return outcome


def drafts_of(
    clip: Clip, truth: RecordingTruth | None, job: ShardJob, registry: Registry, outcome: ShardOutcome
) -> Iterator[Draft]:
    """Add the clip's questions to the outcome and yield its drafts (none in splits that only ask)."""
    builder = Builder(clip, job.config, registry)
    teaches = job.split in ("train", "validation")
    question = operation_question(clip.meta)
    if question is None:
        outcome.no_question["operation: ambiguous" if clip.meta.ambiguous else "operation: unlabelled"] += 1
    elif question.truth["operation"] not in job.labels:
        outcome.no_question["operation: not scored"] += 1
    else:
        outcome.questions.append(question)
        if teaches:
            yield from builder.operation(question)
    if truth is None:
        return
    for detail in job.config.details:
        rng = draw(job.config.seed, clip.meta.clip_id, f"detail {detail}")
        sight, why = truth.sight(detail, clip.meta, rng)
        box = sight.evidence_box(job.config.grid) if sight is not None else None
        if sight is None or box is None:
            outcome.no_question[f"closeup: {why or 'tag straddles cells'}"] += 1
            continue
        suffix = "" if detail == "tag" else f"-{detail}"
        text = sight.asked(job.config.grid)
        question = closeup_question(clip.meta, sight.value, sight.choices, box, text=text, suffix=suffix)
        outcome.questions.append(question)
        if teaches:
            yield builder.closeup(question, sight)


def made(trajectory: Trajectory, draft: Draft, clip: Clip, *, with_scene: bool) -> Made:
    """Encode what the shard will hold; `with_scene` keeps the zoomed source frame for the examples page."""
    images = {name: encode_jpeg(image, quality=TOOL_QUALITY) for name, image in draft.images.items()}
    scene = clip.source_jpegs[draft.drawings[-1][0]] if draft.drawings and with_scene else b""
    return Made(trajectory, frames_hash(clip.view_frames), clip.view_jpeg, images, scene, tuple(draft.drawings))

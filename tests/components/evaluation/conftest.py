"""A small evaluation's inputs in their real form: recordings' manifest, clips in shards, questions."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.shared.learning.metrics import Answer
from components.shared.samples import (
    Clip,
    ClipMeta,
    Question,
    ShardIndex,
    ShardWriter,
    write_clip,
    write_index,
    write_questions,
)
from components.shared.work.manifest import Manifest, Recording, Segment, save_manifest

NUM_FRAMES = 4


@dataclass(frozen=True)
class World:
    """Folders of an evaluation's inputs, and what is true in them."""

    recordings: Path
    clips: Path
    trajectories: Path
    manifest: Manifest
    truths: dict[str, Answer]


def segments(rng: np.random.Generator, labels: tuple[str, ...], duration_s: float) -> tuple[Segment, ...]:
    """Operations in random order, 1.5 to 3 s each; a label never follows itself."""
    found, start, label = [], 0.0, str(rng.choice(labels))
    while start < duration_s:
        end = min(duration_s, start + float(rng.uniform(1.5, 3.0)))
        found.append(Segment(label=label, start_s=start, end_s=end))
        start, label = end, str(rng.choice([other for other in labels if other != label]))
    return tuple(found)


def window_truth(recording: Recording, start: float, length: float) -> Answer:
    """The operation with most overlap, clipped to the window, and what follows it."""
    inside = [(min(s.end_s, start + length) - max(s.start_s, start), i) for i, s in enumerate(recording.segments)]
    index = max(inside)[1]
    segment = recording.segments[index]
    following = recording.segments[index + 1].label if index + 1 < len(recording.segments) else None
    span = (max(0.0, segment.start_s - start), min(length, segment.end_s - start))
    return Answer(segment.label, span, following)


def make_clip(recording: Recording, number: int, split: str, length: float, *, ambiguous: bool) -> tuple[Clip, Answer]:
    """One sliding window; its pixels are noise of its own, so that two windows differ."""
    start = 2.5 * number
    truth = window_truth(recording, start, length)
    assert truth.segment_s is not None and truth.operation is not None
    times = tuple(np.linspace(0, length, NUM_FRAMES, endpoint=False).tolist())
    meta = ClipMeta(
        clip_id=f"{recording.recording_id}-{number:03d}", recording_id=recording.recording_id,
        subject=recording.subject,
        session=recording.session, split=split, window="sliding", start_s=start, duration_s=length, frame_times_s=times,
        frame_labels=(truth.operation,) * NUM_FRAMES, frame_phases=(0.5,) * NUM_FRAMES, operation=truth.operation,
        segment_s=truth.segment_s, next_operation=truth.next_operation, has_boundary=truth.segment_s != (0.0, length),
        ambiguous=ambiguous, sampler="uniform", provenance="synthetic",
    )  # fmt: skip
    noise = np.random.default_rng(list(meta.clip_id.encode()))
    picture = noise.integers(0, 256, (28 * NUM_FRAMES, 28, 3), dtype=np.uint8)
    jpeg = cv2.imencode(".png", picture)[1].tobytes()
    source = cv2.imencode(".jpg", np.full((160, 160, 3), 90, np.uint8))[1].tobytes()
    return Clip(meta, view_jpeg=jpeg, source_jpegs=(source,) * NUM_FRAMES), truth


def build(
    root: Path, *, labels: tuple[str, ...], num_people: int, seconds: float, closeups: bool, seed: int = 0
) -> World:
    """Write a world: a train person, and `num_people` test people with one session each."""
    rng, recordings, clips, truths, questions = np.random.default_rng(seed), [], {}, {}, {"train": [], "test": []}
    for person in range(num_people + 1):
        split = "train" if person == 0 else "test"
        recording = Recording(
            recording_id=f"P{person:02d}", subject=f"P{person:02d}", session="S1", split=split, video="v.mp4", fps=25,
            num_frames=round(25 * seconds), width=112, height=112, duration_s=seconds, sha256="0" * 64,
            segments=segments(rng, labels, seconds),
        )  # fmt: skip
        recordings.append(recording)
        for number in range(max(1, int((seconds - 5) / 2.5) + 1)):
            ambiguous = number % 7 == 5
            clip, truth = make_clip(recording, number, split, min(5.0, seconds), ambiguous=ambiguous)
            clips.setdefault(split, []).append(clip)
            truths[clip.meta.clip_id] = truth
            if not ambiguous:
                questions[split] += asked(clip, truth, split, closeups)
    transitions: dict[str, dict[str, int]] = {}
    for a, b in zip(recordings[0].segments, recordings[0].segments[1:]):
        transitions.setdefault(a.label, {}).setdefault(b.label, 0)
        transitions[a.label][b.label] += 1
    manifest = Manifest(
        source="twin", provenance="synthetic", split_by="person", labels=labels, null_label=None,
        transitions=transitions, recordings=tuple(recordings),
    )  # fmt: skip
    return write_world(root, manifest, clips, questions, truths)


def asked(clip: Clip, truth: Answer, split: str, closeups: bool) -> list[Question]:
    """A clip's questions."""
    assert truth.segment_s is not None
    answer = {
        "operation": truth.operation,
        "start_s": truth.segment_s[0],
        "end_s": truth.segment_s[1],
        "next_operation": truth.next_operation,
    }
    common = {"clip_id": clip.meta.clip_id, "split": split}
    found = [
        Question(
            question_id=f"{clip.meta.clip_id}-op", kind="operation", text="What is under way?", truth=answer, **common
        )
    ]
    if closeups:
        found.append(
            Question(
                question_id=f"{clip.meta.clip_id}-cu",
                kind="closeup",
                text="Which pattern?",
                truth={"value": "checker"},
                choices=("checker", "plain"),
                evidence_box=(0, 0, 250, 250),
                **common,
            )
        )
    return found


def write_world(root: Path, manifest: Manifest, clips: dict, questions: dict, truths: dict[str, Answer]) -> World:
    """Write the three artifacts."""
    world = World(root / "recordings", root / "clips", root / "trajectories", manifest, truths)
    for folder in (world.recordings, world.clips, world.trajectories):
        folder.mkdir(parents=True)
    save_manifest(manifest, world.recordings)
    shards = {}
    for split, items in clips.items():
        with ShardWriter(world.clips, split) as writer:
            for clip in items:
                write_clip(writer, clip)
        shards[split] = tuple(writer.records)
    write_index(world.clips, ShardIndex(kind="clips", provenance="synthetic", shards=shards))
    files = {
        f"questions-{split}.jsonl": write_questions(world.trajectories, split, items)
        for split, items in questions.items()
    }
    write_index(world.trajectories, ShardIndex(kind="trajectories", provenance="synthetic", files=files))
    return world


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    """Ten labels' worth of test data: 8 people of 105 s, about 290 scored windows, close-up questions."""
    return build(
        tmp_path_factory.mktemp("world"),
        labels=("Pick", "Fold", "Fill", "Close", "Scan"),
        num_people=8,
        seconds=105,
        closeups=True,
    )


@pytest.fixture(scope="session")
def small_world(tmp_path_factory) -> World:
    """Like a folder of short videos: three labels, one window each, nothing follows, no close-ups."""
    return build(
        tmp_path_factory.mktemp("small"),
        labels=("up", "falling", "down"),
        num_people=3,
        seconds=4,
        closeups=False,
        seed=3,
    )

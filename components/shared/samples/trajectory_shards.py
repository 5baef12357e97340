"""Trajectories and questions on disk: shards of the former, JSON lines of the latter."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from components.shared.runtime.artifacts import atomic_write, sha256_file
from components.shared.runtime.errors import ArtifactError
from components.shared.samples.index import read_index
from components.shared.samples.jpeg import decode_jpeg, encode_jpeg
from components.shared.samples.reading import read_samples
from components.shared.samples.shards import ShardRecord, ShardWriter
from components.shared.samples.trajectory import Question, Trajectory

TOOL_QUALITY = 95


def write_trajectory(
    writer: ShardWriter, trajectory: Trajectory, view_jpeg: bytes, tool_images: Mapping[str, np.ndarray | bytes]
) -> None:
    """Append a trajectory under its id.

    Args:
        writer: Open writer of the split's shards.
        trajectory: The trajectory.
        view_jpeg: The clip's policy frames, as they stand in the clip (`Clip.view_jpeg`).
        tool_images: Images that operations returned, by name (`tool0`): uint8 RGB arrays, or JPEG bytes already.

    Raises:
        ArtifactError: a result names an image that is not given.
    """
    named = {turn.result.image for turn in trajectory.turns if turn.result and turn.result.image}
    if missing := named - set(tool_images):
        raise ArtifactError(
            f"trajectory {trajectory.trajectory_id} names images that are not given: {sorted(missing)}."
        )
    members = {"json": encode_json(trajectory), "view.jpg": view_jpeg}
    for name, image in sorted(tool_images.items()):
        members[f"{name}.jpg"] = image if isinstance(image, bytes) else encode_jpeg(image, quality=TOOL_QUALITY)
    writer.write(trajectory.trajectory_id, members)


Taught = tuple[Trajectory, np.ndarray, dict[str, np.ndarray]]
"""(trajectory, view frames uint8 RGB (frames, size, size, 3), tool images uint8 RGB by name)."""


def decode_trajectory(key: str, members: dict[str, bytes], shard: str = "its shard") -> Taught:
    """A sample's members as a trajectory with its pictures.

    Raises:
        ArtifactError: a member is missing or of another form; names shard and key.
    """
    try:
        trajectory = Trajectory.model_validate_json(members["json"])
        strip = decode_jpeg(members["view.jpg"])
    except (KeyError, ValidationError) as error:
        raise ArtifactError(
            f"{shard}: sample {key} is no trajectory ({type(error).__name__}: {error}).",
            remedy="Run the trajectories step again.",
        ) from error
    view = strip.reshape(len(trajectory.frame_times_s), -1, strip.shape[1], 3)
    tools = {
        name.removesuffix(".jpg"): decode_jpeg(data)
        for name, data in members.items()
        if name.endswith(".jpg") and name != "view.jpg"
    }
    return trajectory, view, tools


def read_trajectories(artifact: Path, split: str) -> Iterator[Taught]:
    """Stream a split's trajectories in the order of writing.

    Raises:
        ArtifactError: index or shard missing or damaged.
    """
    for record in read_index(artifact).shards.get(split, ()):
        for key, members in read_samples(artifact / record.name):
            yield decode_trajectory(key, members, record.name)


def questions_name(split: str) -> str:
    """File name of a split's questions."""
    return f"questions-{split}.jsonl"


def write_questions(artifact: Path, split: str, questions: Iterable[Question]) -> ShardRecord:
    """Write a split's questions, one JSON object a line; returns the file's record for the index."""
    lines = [encode_json(question) for question in questions]
    path = artifact / questions_name(split)
    atomic_write(path, b"".join(line + b"\n" for line in lines))
    return ShardRecord(name=path.name, count=len(lines), bytes=path.stat().st_size, sha256=sha256_file(path))


def read_questions(artifact: Path, split: str) -> list[Question]:
    """Read a split's questions; a split that was never written is an error, an empty one gives an empty list.

    Raises:
        ArtifactError: the file is missing or a line is no question; names file and line.
    """
    path = artifact / questions_name(split)
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing.", remedy="Run the trajectories step again.") from None
    questions = []
    for number, line in enumerate(lines, 1):
        try:
            questions.append(Question.model_validate_json(line))
        except ValidationError as error:
            raise ArtifactError(
                f"{path.name} line {number} is no question ({error.errors()[0]['msg']}).",
                remedy="Run the trajectories step again.",
            ) from error
    return questions


def encode_json(value: Trajectory | Question) -> bytes:
    """Compact JSON."""
    return json.dumps(value.model_dump(mode="json"), separators=(",", ":"), ensure_ascii=False).encode()

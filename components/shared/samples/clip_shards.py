"""Clips in shards: how one is written and how a split is streamed back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from components.shared.runtime.errors import ArtifactError
from components.shared.samples.clip import Clip, ClipMeta
from components.shared.samples.index import read_index
from components.shared.samples.reading import read_samples
from components.shared.samples.shards import ShardWriter


def write_clip(writer: ShardWriter, clip: Clip) -> None:
    """Append a clip under its id; members as in clip.py."""
    write_clip_members(writer, clip.meta, clip_members(clip))


def write_clip_members(writer: ShardWriter, meta: ClipMeta, members: dict[str, bytes]) -> None:
    """Append a clip whose members are encoded already."""
    writer.write(meta.clip_id, members)


def clip_members(clip: Clip) -> dict[str, bytes]:
    """A clip as shard members by suffix.

    Raises:
        ArtifactError: the number of source frames is not that of the frame times.
    """
    if len(clip.source_jpegs) != len(clip.meta.frame_times_s):
        raise ArtifactError(
            f"clip {clip.meta.clip_id} has {len(clip.source_jpegs)} frames but {len(clip.meta.frame_times_s)} times."
        )
    members = {"json": encode_meta(clip.meta), "view.jpg": clip.view_jpeg}
    members |= {f"{number:02d}.jpg": jpeg for number, jpeg in enumerate(clip.source_jpegs)}
    if clip.audio_flac is not None:
        members["flac"] = clip.audio_flac
    return members


def encode_meta(meta: ClipMeta) -> bytes:
    """A clip's metadata as compact JSON."""
    return json.dumps(meta.model_dump(mode="json"), separators=(",", ":"), ensure_ascii=False).encode()


def decode_clip(key: str, members: dict[str, bytes], shard: str = "its shard", *, sources: bool = True) -> Clip:
    """A sample's members as a clip.

    Raises:
        ArtifactError: a member is missing or the metadata is of another form; names shard and key.
    """
    try:
        meta = ClipMeta.model_validate_json(members["json"])
        jpegs = tuple(members[f"{number:02d}.jpg"] for number in range(len(meta.frame_times_s) if sources else 0))
        return Clip(meta=meta, view_jpeg=members["view.jpg"], source_jpegs=jpegs, audio_flac=members.get("flac"))
    except (KeyError, ValidationError) as error:
        raise ArtifactError(
            f"{shard}: sample {key} is no clip ({type(error).__name__}: {error}).", remedy="Run the clips step again."
        ) from error


def read_shard_clips(path: Path) -> Iterator[Clip]:
    """Stream the clips of one shard.

    Raises:
        ArtifactError: a sample is no clip; names shard and key.
    """
    for key, members in read_samples(path):
        yield decode_clip(key, members, path.name)


def read_clips(artifact: Path, split: str) -> Iterator[Clip]:
    """Stream a split's clips in the order of writing; a split without clips gives none.

    Args:
        artifact: A clips artifact (folder with index.json).
        split: train, validation, test or canary.

    Raises:
        ArtifactError: index or shard missing or damaged.
    """
    for record in read_index(artifact).shards.get(split, ()):
        yield from read_shard_clips(artifact / record.name)


def read_views(artifact: Path, split: str) -> Iterator[Clip]:
    """Stream a split's clips without their frames at source resolution, which are not read."""
    for record in read_index(artifact).shards.get(split, ()):
        for key, members in read_samples(artifact / record.name, ("json", "view.jpg", "flac")):
            yield decode_clip(key, members, record.name, sources=False)


def read_clip_metas(artifact: Path, split: str) -> Iterator[ClipMeta]:
    """Stream a split's metadata only."""
    for clip in read_clips(artifact, split):
        yield clip.meta

"""Shards come back as written, are the same bytes every time, and a damaged one is named."""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.shared.runtime.errors import ArtifactError
from components.shared.samples import (
    Call,
    Clip,
    ClipMeta,
    Question,
    SampleStream,
    ShardIndex,
    ShardWriter,
    ToolResult,
    Trajectory,
    Turn,
    read_clips,
    read_index,
    read_questions,
    read_trajectories,
    verify_artifact,
    write_clip,
    write_index,
    write_questions,
    write_trajectory,
)
from components.shared.samples.clip_shards import decode_clip, read_views
from components.shared.samples.jpeg import encode_jpeg
from components.shared.samples.reading import read_samples

SIZE = 56


def make_clip(number: int, *, audio: bytes | None = None) -> Clip:
    """A clip of three frames whose grey level is its number."""
    meta = ClipMeta(
        clip_id=f"U0101-S0100-{number:05d}",
        recording_id="U0101-S0100",
        subject="U0101",
        session="S0100",
        split="train",
        window="random",
        start_s=1.5,
        duration_s=5.0,
        frame_times_s=(0.0, 2.5, 4.96),
        frame_labels=("Picking", "Picking", ""),
        frame_phases=(0.1, 0.6, 0.0),
        operation="Picking",
        segment_s=(0.0, 4.2),
        next_operation=None,
        has_boundary=True,
        sampler="uniform",
        provenance="synthetic",
    )
    frame = np.full((48, 64, 3), number, np.uint8)
    view = np.full((3 * SIZE, SIZE, 3), number, np.uint8)
    jpegs = tuple(encode_jpeg(frame) for _ in range(3))
    return Clip(meta=meta, view_jpeg=encode_jpeg(view, quality=95), source_jpegs=jpegs, audio_flac=audio)


def write_artifact(root: Path, clips: list[Clip], **options: int) -> None:
    root.mkdir()
    with ShardWriter(root, "train", **options) as writer:
        for clip in clips:
            write_clip(writer, clip)
        records = writer.close()
    write_index(root, ShardIndex(kind="clips", provenance="synthetic", shards={"train": records}))


def test_clips_come_back_as_written(tmp_path: Path) -> None:
    clips = [make_clip(number, audio=b"fLaC" if number % 2 else None) for number in range(7)]
    write_artifact(tmp_path / "clips", clips)
    assert list(read_clips(tmp_path / "clips", "train")) == clips
    assert list(read_clips(tmp_path / "clips", "canary")) == []
    assert clips[5].view_frames.shape == (3, SIZE, SIZE, 3)
    assert abs(int(clips[5].source_frame(1).mean()) - 5) <= 1


def test_views_come_without_the_frames_at_source_resolution(tmp_path: Path) -> None:
    clips = [make_clip(0), make_clip(1, audio=b"fLaC"), make_clip(2)]
    write_artifact(tmp_path / "clips", clips)
    assert list(read_views(tmp_path / "clips", "train")) == [replace(clip, source_jpegs=()) for clip in clips]


def test_bytes_do_not_depend_on_time_or_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [make_clip(number) for number in range(3)]
    write_artifact(tmp_path / "a", clips)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 9e6)
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    write_artifact(tmp_path / "b", clips)
    assert (tmp_path / "a/train-000000.tar").read_bytes() == (tmp_path / "b/train-000000.tar").read_bytes()


def test_no_shard_exceeds_the_limit_and_none_is_lost(tmp_path: Path) -> None:
    clips = [make_clip(number) for number in range(40)]
    write_artifact(tmp_path / "clips", clips, max_bytes=60_000)
    index = read_index(tmp_path / "clips")
    assert len(index.shards["train"]) > 3
    assert all((tmp_path / "clips" / shard.name).stat().st_size <= 60_000 for shard in index.shards["train"])
    assert index.count("train") == 40
    assert [clip.meta.clip_id for clip in read_clips(tmp_path / "clips", "train")] == [c.meta.clip_id for c in clips]
    verify_artifact(tmp_path / "clips")


def test_webdataset_reads_our_shards(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    clips = [make_clip(number) for number in range(4)]
    write_artifact(tmp_path / "clips", clips)
    seen = list(webdataset.WebDataset(str(tmp_path / "clips/train-000000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in seen] == [clip.meta.clip_id for clip in clips]
    assert seen[2]["view.jpg"] == clips[2].view_jpeg
    assert seen[2]["01.jpg"] == clips[2].source_jpegs[1]


def test_the_stream_hands_out_clips_in_its_own_order(tmp_path: Path) -> None:
    clips = {f"U0101-S0100-{number:05d}": make_clip(number) for number in range(12)}
    write_artifact(tmp_path / "clips", list(clips.values()), max_bytes=60_000)
    batches = SampleStream(tmp_path / "clips", "train", decode_clip, batch=4, seed=0).batches()
    epoch = [clip for batch in itertools.islice(batches, 3) for clip in batch]
    assert {clip.meta.clip_id: clip for clip in epoch} == clips
    assert epoch != list(clips.values())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-2000]), "bytes, its record says"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"Picking", b"Packing")), "sha256"),
    ],
    ids=["missing", "truncated", "changed"],
)
def test_verification_names_the_bad_shard(tmp_path: Path, damage: object, said: str) -> None:
    write_artifact(tmp_path / "clips", [make_clip(number) for number in range(30)], max_bytes=60_000)
    damage(tmp_path / "clips/train-000001.tar")  # type: ignore[operator]
    with pytest.raises(ArtifactError, match=rf"train-000001\.tar .*{said}") as caught:
        verify_artifact(tmp_path / "clips")
    assert "train-000000" not in str(caught.value)


def test_a_truncated_shard_is_an_error_when_read(tmp_path: Path) -> None:
    write_artifact(tmp_path / "clips", [make_clip(number) for number in range(5)])
    path = tmp_path / "clips/train-000000.tar"
    path.write_bytes(path.read_bytes()[:9_000])
    with pytest.raises(ArtifactError, match=r"train-000000\.tar cannot be read"):
        list(read_samples(path))


@pytest.mark.parametrize("key", ["a.b", "a/b", "", "x" * 81])
def test_keys_that_would_break_reading_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ArtifactError, match="cannot name"):
        ShardWriter(tmp_path, "train").write(key, {"json": b"{}"})


def test_a_key_used_twice_is_refused(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "train")
    writer.write("a", {"json": b"{}"})
    with pytest.raises(ArtifactError, match="twice"):
        writer.write("a", {"json": b"{}"})


def make_question(number: int) -> Question:
    return Question(
        question_id=f"q{number}", clip_id=f"c{number}", split="test", kind="closeup", text="Which pattern?",
        truth={"value": "diagonal"}, choices=("diagonal", "checker"), evidence_box=(250, 0, 500, 250),
    )  # fmt: skip


def test_trajectories_come_back_as_written(tmp_path: Path) -> None:
    clip = make_clip(9)
    call = Call(name="ZOOM_IN", arguments={"frame": 2, "box": [250, 0, 500, 250]})
    trajectory = Trajectory(
        trajectory_id="t-1",
        question=make_question(1),
        kind="evidence",
        stage="complex",
        turns=(
            Turn(call=call, result=ToolResult(ok=True, image="tool0")),
            Turn(thought="Schräg.", answer={"value": "diagonal"}),
        ),
        frame_times_s=clip.meta.frame_times_s,
        provenance="synthetic",
    )
    crop = np.arange(112 * 112 * 3, dtype=np.uint32).reshape(112, 112, 3) // 160
    with ShardWriter(tmp_path, "train") as writer:
        write_trajectory(writer, trajectory, clip.view_jpeg, {"tool0": crop.astype(np.uint8)})
        with pytest.raises(ArtifactError, match="tool0"):
            write_trajectory(writer, trajectory, clip.view_jpeg, {})
        shards = {"train": writer.close()}
    write_index(tmp_path, ShardIndex(kind="trajectories", provenance="synthetic", shards=shards))
    [(read, view, tools)] = list(read_trajectories(tmp_path, "train"))
    assert read == trajectory
    assert np.array_equal(view, clip.view_frames)
    assert np.abs(tools["tool0"].astype(int) - crop.astype(int)).mean() < 2


def test_questions_come_back_and_a_bad_line_is_named(tmp_path: Path) -> None:
    questions = [make_question(number) for number in range(3)]
    record = write_questions(tmp_path, "test", questions)
    assert record.count == 3
    assert read_questions(tmp_path, "test") == questions
    with pytest.raises(ArtifactError, match=r"questions-train\.jsonl is missing"):
        read_questions(tmp_path, "train")
    with open(tmp_path / record.name, "a") as file:
        file.write('{"question_id": 3}\n')
    with pytest.raises(ArtifactError, match="line 4"):
        read_questions(tmp_path, "test")

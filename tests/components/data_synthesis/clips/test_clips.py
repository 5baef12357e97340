"""Cutting and joining: right pixels and labels, the same bytes however cut, and failures that stay where they are."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.data_synthesis.clips.collect import CollectInputs, CollectOutputs, collect_clips
from components.data_synthesis.clips.config import ClipsConfig
from components.data_synthesis.clips.cut import CutInputs, CutOutputs, cut_clips, cut_with_retry, make_request
from components.data_synthesis.clips.examples import BAND, labelled
from components.data_synthesis.clips.plan import plan_clips
from components.data_synthesis.clips.sampler_report import SamplerCounts, compare_samplers, verdict
from components.data_synthesis.clips.worker import Worker
from components.shared.encoders.audio import decode_audio
from components.shared.runtime.artifacts import read_json, tree_digest
from components.shared.runtime.errors import ArtifactError, ConfigError, InputError
from components.shared.runtime.report import Report
from components.shared.samples import Clip, read_clips, read_index, verify_artifact
from components.shared.samples.jpeg import encode_jpeg
from components.shared.video.random_access import read_frames
from components.shared.work.manifest import load_manifest, save_manifest

SMALL = ClipsConfig(num_examples=6, report_recordings=4, canary_share=0.2, random_per_minute=24)


def make_clips(root: Path, recordings: Path, config: ClipsConfig = SMALL, num_groups: int = 1) -> tuple[Path, Report]:
    groups = []
    for group in range(num_groups):
        folder = root / f"group-{group}"
        folder.mkdir(parents=True)
        cut_clips(config, CutInputs(recordings, group, num_groups), CutOutputs(folder))
        groups.append(folder)
    joined = root / "clips"
    joined.mkdir()
    report = collect_clips(config, CollectInputs(recordings, tuple(groups)), CollectOutputs(joined))
    return joined, report


@pytest.fixture(scope="module")
def made(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    return make_clips(tmp_path_factory.mktemp("made"), recordings)


def all_clips(artifact: Path) -> list[Clip]:
    return [clip for split in ("train", "validation", "test", "canary") for clip in read_clips(artifact, split)]


def test_the_artifact_is_whole_and_counts_agree(made: tuple[Path, Report]) -> None:
    artifact, report = made
    index = verify_artifact(artifact)
    clips = all_clips(artifact)
    assert len(clips) == sum(index.count(split) for split in index.shards)
    assert report.metrics["num_clips_train"] == index.count("train") > 20
    assert index.facts["sampler"] == "uniform"
    for split, classes in index.facts["classes"].items():
        assert sum(classes.values()) == index.count(split)
    assert not list(artifact.glob(".*"))


def test_frames_are_those_of_the_recording_at_their_times(made: tuple[Path, Report], recordings: Path) -> None:
    manifest = {r.recording_id: r for r in load_manifest(recordings).recordings}
    clips = [clip for clip in all_clips(made[0]) if not clip.meta.padded_s]
    for clip in clips[::9]:
        meta = clip.meta
        video = recordings / manifest[meta.recording_id].video
        truth = read_frames(video, [meta.start_s + time_s for time_s in meta.frame_times_s])
        assert len(clip.source_jpegs) == 16
        for number in (0, 7, 15):
            off = np.abs(clip.source_frame(number).astype(int) - truth[number]).mean()
            assert off < (17 if meta.split == "canary" else 12)
        # a neighbouring frame is far off, so a shift by one would be seen
        assert np.abs(clip.source_frame(7).astype(int) - truth[8]).mean() > 20
        assert clip.view_frames.shape == (16, 56, 56, 3)
        assert clip.view_frames[:, :6].mean() < 4 < 40 < clip.view_frames[:, 10:-10].mean()


def test_labels_are_those_of_the_annotation(made: tuple[Path, Report], recordings: Path) -> None:
    manifest = {r.recording_id: r for r in load_manifest(recordings).recordings}
    for clip in all_clips(made[0]):
        meta = clip.meta
        segments = manifest[meta.recording_id].segments
        inside = dict.fromkeys("ABC", 0.0)
        for s in segments:
            inside[s.label] += max(0.0, min(s.end_s, meta.start_s + 5) - max(s.start_s, meta.start_s))
        assert inside[meta.operation] == pytest.approx(max(inside.values()), abs=0.002)
        for time_s, label in zip(meta.frame_times_s, meta.frame_labels):
            at = meta.start_s + time_s
            assert label == next((s.label for s in segments if s.start_s <= at + 1e-9 < s.end_s), "")
        if meta.split in ("train", "canary"):
            assert not meta.ambiguous


def test_short_recordings_are_padded_and_marked(made: tuple[Path, Report]) -> None:
    [clip] = [clip for clip in all_clips(made[0]) if clip.meta.recording_id == "P01.S1"]
    assert clip.meta.padded_s == 2.0
    assert clip.meta.segment_s[1] <= 3.0
    last_real = max(i for i, t in enumerate(clip.meta.frame_times_s) if t < 3.0)
    assert np.abs(clip.source_frame(15).astype(int) - clip.source_frame(14)).max() == 0
    assert np.abs(clip.source_frame(last_real).astype(int) - clip.source_frame(last_real - 1)).mean() > 20


def test_sound_is_kept_where_there_is_any_but_for_the_canary(made: tuple[Path, Report]) -> None:
    for clip in all_clips(made[0])[::11]:
        even = int(clip.meta.recording_id[1:3]) % 2 == 0 and clip.meta.split != "canary"
        assert (clip.audio_flac is not None) == even
        if clip.audio_flac:
            assert len(decode_audio(clip.audio_flac)) == 80_000


def test_canary_frames_are_as_coarse_as_configured_and_no_others(
    made: tuple[Path, Report], recordings: Path, tmp_path: Path
) -> None:
    finer, _ = make_clips(tmp_path, recordings, SMALL.model_copy(update={"canary_jpeg_quality": 95}))
    sizes = {
        artifact: {clip.meta.clip_id: len(b"".join(clip.source_jpegs)) for clip in read_clips(artifact, "canary")}
        for artifact in (made[0], finer)
    }
    assert sizes[finer] and sizes[finer].keys() == sizes[made[0]].keys()
    assert all(size > sizes[made[0]][name] for name, size in sizes[finer].items())
    assert list(read_clips(finer, "train")) == list(read_clips(made[0], "train"))
    for one, other in zip(read_clips(finer, "canary"), read_clips(made[0], "canary"), strict=True):
        assert one.view_jpeg == other.view_jpeg


def test_bytes_do_not_depend_on_workers(made: tuple[Path, Report], recordings: Path, tmp_path: Path) -> None:
    for workers in (1, 3):
        config = SMALL.model_copy(update={"workers": workers})
        artifact, _ = make_clips(tmp_path / str(workers), recordings, config)
        names = sorted(path.name for path in artifact.glob("*.tar"))
        assert names == sorted(path.name for path in made[0].glob("*.tar"))
        assert all((artifact / name).read_bytes() == (made[0] / name).read_bytes() for name in names)
    again, _ = make_clips(tmp_path / "again", recordings)
    assert tree_digest(again) == tree_digest(made[0])


def test_groups_hold_the_same_clips(made: tuple[Path, Report], recordings: Path, tmp_path: Path) -> None:
    artifact, report = make_clips(tmp_path, recordings, num_groups=3)
    key = lambda clip: clip.meta.clip_id
    assert sorted(all_clips(artifact), key=key) == sorted(all_clips(made[0]), key=key)
    assert report.metrics == made[1].metrics


def test_groups_that_do_not_belong_together_are_refused(recordings: Path, tmp_path: Path) -> None:
    folders = []
    for group in range(2):
        folder = tmp_path / f"g{group}"
        folder.mkdir()
        cut_clips(SMALL, CutInputs(recordings, group, 2), CutOutputs(folder))
        folders.append(folder)
    target = tmp_path / "clips"
    target.mkdir()
    with pytest.raises(ArtifactError, match=r"groups \[1\] were given"):
        collect_clips(SMALL, CollectInputs(recordings, (folders[1],)), CollectOutputs(target))
    other = SMALL.model_copy(update={"seed": 9})
    with pytest.raises(ArtifactError, match="another configuration"):
        collect_clips(other, CollectInputs(recordings, tuple(folders)), CollectOutputs(target))
    others = tmp_path / "others"
    others.mkdir()
    manifest = load_manifest(recordings)
    save_manifest(manifest.model_copy(update={"captions": {**manifest.captions, manifest.labels[0]: "new"}}), others)
    with pytest.raises(ArtifactError, match="other recordings"):
        collect_clips(SMALL, CollectInputs(others, tuple(folders)), CollectOutputs(target))
    with pytest.raises(ConfigError, match="group = 2"):
        cut_clips(SMALL, CutInputs(recordings, 2, 2), CutOutputs(target))


def damage(recordings: Path, target: Path, names: list[str]) -> Path:
    shutil.copytree(recordings, target)
    for name in names:
        (target / name).write_bytes((target / name).read_bytes()[:3000])
    return target


def test_a_bad_recording_is_skipped_with_its_reason(recordings: Path, tmp_path: Path) -> None:
    bad = damage(recordings, tmp_path / "bad", ["P03.mp4"])
    artifact, report = make_clips(tmp_path / "run", bad)
    assert report.metrics["num_failed"] == 1
    [skipped] = read_index(artifact).facts["skipped"]
    assert skipped["recording_id"] == "P03.S1"
    assert "P03.mp4: cannot be decoded" in skipped["reason"]
    assert "P03.S1" in report.markdown
    assert not [clip for clip in all_clips(artifact) if clip.meta.recording_id == "P03.S1"]
    verify_artifact(artifact)


def test_too_many_bad_recordings_fail_the_step(recordings: Path, tmp_path: Path) -> None:
    bad = damage(recordings, tmp_path / "bad", ["P03.mp4", "P09.mp4"])
    with pytest.raises(InputError, match=r"2 of 11 recordings failed, more than max_failed_share = 0\.1: .*P03"):
        make_clips(tmp_path / "run", bad)


def test_windows_past_the_real_end_are_left_out_and_counted(recordings: Path, tmp_path: Path) -> None:
    target = tmp_path / "longer"
    shutil.copytree(recordings, target)
    manifest = load_manifest(target)
    rows = [
        r.model_copy(update={"duration_s": 20.0, "num_frames": 500}) if r.subject == "P09" else r
        for r in manifest.recordings
    ]
    save_manifest(manifest.model_copy(update={"recordings": tuple(rows)}), target)
    artifact, _ = make_clips(tmp_path / "run", target)
    assert read_index(artifact).facts["num_cut_short"] > 0
    ends = [c.meta.start_s + 5 for c in all_clips(artifact) if c.meta.subject == "P09"]
    assert max(ends) <= 10.0


@pytest.mark.parametrize("kill", [True, False], ids=["decoder dies", "decoder hangs"])
def test_a_dead_or_hanging_decoder_costs_one_attempt(recordings: Path, tmp_path: Path, kill: bool) -> None:
    manifest = load_manifest(recordings)
    plan = plan_clips(manifest, SMALL)
    recording = manifest.recordings[9]
    request = make_request(manifest, plan, recording, SMALL, recordings, set(), tmp_path / "part")
    worker = Worker(6.0)
    child = worker.child.start()
    os.kill(child.pid, signal.SIGSTOP)
    if kill:
        threading.Timer(0.2, os.kill, (child.pid, signal.SIGKILL)).start()
    with pytest.raises(InputError, match=r"decoder died \(exit status -9\)" if kill else "took more than"):
        worker.cut(request, 30.0 if kill else 0.5)
    result = cut_with_retry(worker, request, SMALL)
    assert result.error == ""
    assert len(result.clip_ids) == len(plan.clips[recording.recording_id])
    worker.close()


@pytest.mark.parametrize("sampler", ["entropy", "motion", "flow"])
def test_other_samplers_cut_too(recordings: Path, tmp_path: Path, sampler: str) -> None:
    config = SMALL.model_copy(update={"sampler": sampler, "boundary_boost": True, "max_clips": 12, "audio": False})
    artifact, _ = make_clips(tmp_path, recordings, config)
    for clip in all_clips(artifact):
        assert clip.meta.sampler == sampler
        assert clip.meta.frame_times_s[0] == 0.0
        assert clip.meta.frame_times_s[-1] == 4.96
        assert len(clip.source_jpegs) == 16


@pytest.mark.parametrize("text", ["Picking from 0.00 to 1.00 s, then nothing", "Attach Shipping Label " * 9])
def test_a_label_stands_above_its_clip_and_ends_before_the_edge(text: str) -> None:
    drawn = labelled(np.zeros((40, 300, 3), np.uint8), text, 640)
    assert drawn.shape == (40 + BAND, 640, 3)
    assert (drawn[:BAND, :300] < 100).any() and (drawn[:BAND, -3:] == 255).all()
    assert (drawn[BAND:, :300] == 0).all() and (drawn[BAND:, 300:] == 255).all()


def test_examples_and_sampler_report_are_there(made: tuple[Path, Report]) -> None:
    artifact, report = made
    page = (artifact / "examples/index.html").read_text()
    assert page.count("<figure>") == 6
    for picture in (artifact / "examples").glob("*.jpg"):
        assert picture.name in page
    heights = [cv2.imread(str(picture)).shape[0] for picture in (artifact / "examples").glob("*.jpg")]
    assert cv2.imread(str(artifact / "examples/sheet.png")).shape[0] == sum(heights) + 6 * BAND, "each has its label"
    figures = read_json(artifact / "sampler-report.json")
    assert figures["num_recordings"] == 4
    assert set(figures["samplers"]) == {"uniform", "entropy", "motion", "flow"}
    assert all(path.is_file() for path in report.pictures.values())
    assert "| entropy |" in report.markdown


def test_the_interval_tells_help_from_chance() -> None:
    rng = np.random.default_rng(0)

    def recording(rate: float) -> dict[str, SamplerCounts]:
        near = int(rng.binomial(100, 0.4))
        return {
            "uniform": SamplerCounts(near=near, chosen=100),
            "entropy": SamplerCounts(near=int(rng.binomial(100, rate)), chosen=100),
        }

    better = compare_samplers([recording(0.6) for _ in range(30)], 0)["entropy"]
    same = compare_samplers([recording(0.4) for _ in range(30)], 0)["entropy"]
    worse = compare_samplers([recording(0.2) for _ in range(30)], 0)["entropy"]
    assert verdict("entropy", better) == "helps"
    assert verdict("entropy", same) == "no difference shown"
    assert verdict("entropy", worse) == "hurts"
    assert better["gain"] == pytest.approx(0.2, abs=0.05)


def test_real_videos_at_another_rate_and_shorter_than_a_window(urfd: Callable[[Path], Path], tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    artifact, report = make_clips(tmp_path / "run", urfd(tmp_path / "recordings"), ClipsConfig(report_recordings=26))
    index = verify_artifact(artifact)
    assert report.provenance == "real"
    assert report.metrics["num_failed"] == 0
    assert index.count("train") > 10
    assert index.count("test") >= 5
    assert index.count("canary") >= 3
    assert "the split is by video" in report.markdown
    padded = [clip for clip in all_clips(artifact) if clip.meta.padded_s]
    assert padded
    assert all(clip.meta.segment_s[1] <= 5 - clip.meta.padded_s + 0.05 for clip in padded)
    assert {clip.source_frame(0).shape for clip in all_clips(artifact)} == {(240, 320, 3)}


def test_a_full_disk_is_not_the_recordings_fault(recordings: Path, tmp_path: Path) -> None:
    manifest = load_manifest(recordings)
    plan = plan_clips(manifest, SMALL)
    request = make_request(manifest, plan, manifest.recordings[9], SMALL, recordings, set(), Path("/dev/full"))
    worker = Worker(6.0)
    with pytest.raises(OSError, match="No space left"):
        cut_with_retry(worker, request, SMALL)
    worker.close()


def test_a_frames_folder_with_one_broken_picture_is_skipped_not_shown(recordings: Path, tmp_path: Path) -> None:
    """OpenCV would show the truncated picture with its lower half grey and say nothing."""
    target = tmp_path / "frames"
    shutil.copytree(recordings, target)
    manifest, rows = load_manifest(target), []
    rng = np.random.default_rng(0)
    for recording in manifest.recordings:
        if recording.subject not in ("P02", "P03"):
            rows.append(recording)
            continue
        folder = target / recording.subject
        folder.mkdir()
        for number in range(150):  # 15 a second
            stamp = f"20220329_1425{number // 15:02d}_{number % 15 * 1000 // 15:03d}.jpg"
            picture = encode_jpeg(rng.integers(0, 255, (48, 64, 3), np.uint8), quality=90)
            broken = recording.subject == "P03" and number == 100
            (folder / stamp).write_bytes(picture[: len(picture) // 2] if broken else picture)
        rows.append(recording.model_copy(update={"kind": "frames", "video": recording.subject, "has_audio": False}))
    save_manifest(manifest.model_copy(update={"recordings": tuple(rows)}), target)
    config = SMALL.model_copy(update={"report_recordings": 0, "max_clips": 0, "canary_share": 0.01})
    artifact, report = make_clips(tmp_path / "run", target, config)
    [skipped] = read_index(artifact).facts["skipped"]
    assert skipped["recording_id"] == "P03.S1"
    assert "20220329_142506_666.jpg: is no whole picture" in skipped["reason"]
    good = [clip for clip in all_clips(artifact) if clip.meta.subject == "P02"]
    assert good and report.metrics["num_failed"] == 1
    assert good[0].source_frame(3).shape == (48, 64, 3)

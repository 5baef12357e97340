"""The plan: who is kept out of what, how much, and that it depends on nothing but manifest and configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from components.data_synthesis.clips.config import ClipsConfig
from components.data_synthesis.clips.plan import plan_clips
from components.shared.runtime.errors import ConfigError
from components.shared.video.labelling import Timeline
from components.shared.work.manifest import Manifest, Segment, load_manifest


@pytest.fixture
def manifest(recordings: Path) -> Manifest:
    return load_manifest(recordings)


def test_canary_people_are_in_no_other_split(manifest: Manifest) -> None:
    plan = plan_clips(manifest, ClipsConfig(canary_share=0.25))
    assert plan.canary_source == "train"
    assert len(plan.canary_subjects) == 2
    for recording in manifest.recordings:
        splits = {clip.split for clip in plan.clips[recording.recording_id]}
        if recording.subject in plan.canary_subjects:
            assert splits == {"canary"}
        else:
            assert splits <= {recording.split}


def test_canary_people_are_those_who_cover_what_is_scarce(manifest: Manifest) -> None:
    """Everybody does A and B; two people do C as well, and both are chosen before anybody else."""
    rows = []
    for number, recording in enumerate(r for r in manifest.recordings if r.split == "train"):
        ends = [5.0, 10.0] if number not in (3, 5) else [4.0, 8.0, 9.0]
        spans = zip("ABC"[: len(ends)], [0.0, *ends[:-1]], ends, strict=True)
        segments = tuple(Segment(label=label, start_s=start, end_s=end) for label, start, end in spans)
        rows.append(recording.model_copy(update={"segments": segments}))
    plan = plan_clips(manifest.model_copy(update={"recordings": tuple(rows)}), ClipsConfig(canary_share=0.25))
    assert set(plan.canary_subjects) == {rows[3].subject, rows[5].subject}


def test_one_long_recording_is_not_spent_on_the_canary(manifest: Manifest) -> None:
    """Somebody was filmed for an hour and does everything: training keeps that hour."""
    rows = []
    for number, recording in enumerate(r for r in manifest.recordings if r.split == "train"):
        length = 3600.0 if number == 4 else 10.0
        segments = tuple(
            Segment(label="ABC"[k % 3] if number == 4 else "AB"[k], start_s=5.0 * k, end_s=5.0 * k + 5)
            for k in range(round(length / 5))
        )
        rows.append(
            recording.model_copy(update={"segments": segments, "duration_s": length, "num_frames": round(25 * length)})
        )
    plan = plan_clips(manifest.model_copy(update={"recordings": tuple(rows)}), ClipsConfig(canary_share=0.25))
    assert len(plan.canary_subjects) == 2
    assert rows[4].subject not in plan.canary_subjects


def test_canary_is_capped_by_class(manifest: Manifest) -> None:
    config = ClipsConfig(canary_share=0.4, canary_per_class=2)
    plan = plan_clips(manifest, config)
    labels = []
    for recording in manifest.recordings:
        timeline = Timeline(recording.segments, None, recording.duration_s)
        for clip in plan.clips[recording.recording_id]:
            if clip.split == "canary":
                truth = timeline.label_window(clip.start / 25, 5, config.lead_share)
                assert truth is not None
                assert not truth.ambiguous
                labels.append(truth.operation)
    assert max(labels.count(label) for label in "ABC") == 2
    free = plan_clips(manifest, ClipsConfig(canary_share=0.4))
    assert sum(clip.split == "canary" for clips in free.clips.values() for clip in clips) > len(labels)


def test_with_two_training_people_validation_gives_the_canary(manifest: Manifest) -> None:
    def small(num_validation: int) -> Manifest:
        rows = [r.model_copy(update={"split": "train"}) for r in manifest.recordings[:2]]
        rows += [r.model_copy(update={"split": "validation"}) for r in manifest.recordings[2 : 2 + num_validation]]
        return manifest.model_copy(update={"recordings": tuple(rows)})

    plan = plan_clips(small(3), ClipsConfig())
    assert plan.canary_source == "validation"
    assert sum(clip.split == "canary" for clips in plan.clips.values() for clip in clips) > 0
    assert plan_clips(small(1), ClipsConfig()).canary_source == "none"


def test_validation_and_test_windows_do_not_depend_on_the_annotation(manifest: Manifest) -> None:
    def strip(m: Manifest) -> Manifest:
        return m.model_copy(update={"recordings": tuple(r.model_copy(update={"segments": ()}) for r in m.recordings)})

    def evaluated(m: Manifest) -> list[object]:
        plan = plan_clips(m, ClipsConfig())
        return [c for clips in plan.clips.values() for c in clips if c.split in ("validation", "test")]

    assert evaluated(manifest) == evaluated(strip(manifest))
    assert len(evaluated(manifest)) == 3 * 3


def test_training_clips_are_capped_and_the_rest_counted(manifest: Manifest) -> None:
    def train(plan: object) -> int:
        return sum(c.split == "train" for clips in plan.clips.values() for c in clips)  # type: ignore[attr-defined]

    free = plan_clips(manifest, ClipsConfig(max_clips=0))
    capped = plan_clips(manifest, ClipsConfig(max_clips=20))
    assert train(free) > 40
    assert train(capped) == 20
    assert capped.num_capped == train(free) - 20


def test_ids_are_unique_and_fit_shards(manifest: Manifest) -> None:
    pair = ((("A", "B"),), 3)
    plan = plan_clips(manifest, ClipsConfig(confusable_pairs=pair[0], confusable_copies=pair[1]))
    ids = [clip.clip_id for clips in plan.clips.values() for clip in clips]
    assert len(ids) == len(set(ids))
    assert all("." not in clip_id for clip_id in ids)
    wide = [clip for clips in plan.clips.values() for clip in clips if clip.length == 188]
    assert wide
    assert {clip.split for clip in wide} == {"train"}


def test_seeds_differ_and_repeat(manifest: Manifest) -> None:
    assert plan_clips(manifest, ClipsConfig(seed=1)).clips == plan_clips(manifest, ClipsConfig(seed=1)).clips
    assert plan_clips(manifest, ClipsConfig(seed=1)).clips != plan_clips(manifest, ClipsConfig(seed=2)).clips


def test_more_frames_than_a_window_has_are_refused() -> None:
    with pytest.raises(ValidationError, match="num_frames = 100 is more than the 75 frames"):
        ClipsConfig(num_frames=100, window_s=3.0)
    with pytest.raises(ConfigError, match=r"clips\.sampler = 'best'"):
        ClipsConfig.parse('{"sampler": "best"}', name="clips")

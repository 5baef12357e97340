"""Which windows become clips, decided before a single frame is decoded.

The plan of a whole run depends on the manifest and the configuration only, so every group computes the same plan and
cuts its part of it: caps, the canary set and clip ids need no message between groups.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from components.data_synthesis.clips.canary import choose_canary
from components.data_synthesis.clips.config import ClipsConfig
from components.data_synthesis.clips.ranking import rank
from components.shared.runtime.config import Section
from components.shared.video.labelling import Timeline
from components.shared.video.windows import Window, WindowKind, sliding_windows, training_windows
from components.shared.work.manifest import Manifest, Recording

ClipSplit = Literal["train", "validation", "test", "canary"]


class PlannedClip(Section):
    """One window to cut; positions in grid frames."""

    clip_id: str
    split: ClipSplit
    window: WindowKind
    start: int
    length: int


@dataclass
class Plan:
    """All windows of a run."""

    clips: dict[str, list[PlannedClip]] = field(default_factory=dict)
    """By recording id, ascending by start."""
    canary_subjects: tuple[str, ...] = ()
    canary_source: Literal["train", "validation", "none"] = "none"
    """Where the canary's people were taken from; `none` where nobody could be spared."""
    num_unclear: int = 0
    """Training and canary windows left out because no label leads."""
    num_capped: int = 0
    """Training windows beyond `max_clips`."""


def plan_clips(manifest: Manifest, config: ClipsConfig) -> Plan:
    """Place every window of a run."""
    plan = Plan()
    plan.canary_subjects, plan.canary_source = choose_canary(manifest, config)
    train: list[tuple[str, PlannedClip]] = []
    canary: list[tuple[str, str, PlannedClip]] = []
    for recording in manifest.recordings:
        timeline = Timeline(recording.segments, manifest.null_label, recording.duration_s)
        plan.clips[recording.recording_id] = []
        if recording.split == plan.canary_source and recording.subject in plan.canary_subjects:
            canary += plan_canary(recording, timeline, config, plan)
        elif recording.split == "train":
            train += plan_training(recording, timeline, config, plan)
        else:
            total = grid_frames(recording, config)
            windows = sliding_windows(total, config.window_frames, config.stride_s * config.fps)
            plan.clips[recording.recording_id] = [name_clip(recording, recording.split, w) for w in windows]
    if config.max_clips and len(train) > config.max_clips:
        plan.num_capped = len(train) - config.max_clips
        train = sorted(train, key=lambda item: rank(config.seed, item[1].clip_id))[: config.max_clips]
    taken: Counter[str] = Counter()
    for recording_id, label, clip in sorted(canary, key=lambda item: rank(config.seed, item[2].clip_id)):
        if taken[label] < config.canary_per_class:
            taken[label] += 1
            train.append((recording_id, clip))
    for recording_id, clip in train:
        plan.clips[recording_id].append(clip)
    for clips in plan.clips.values():
        clips.sort(key=lambda clip: (clip.start, clip.length))
    return plan


def plan_training(
    recording: Recording, timeline: Timeline, config: ClipsConfig, plan: Plan
) -> list[tuple[str, PlannedClip]]:
    """Training windows of one recording, only such with a clear answer."""
    rng = random.Random(f"{config.seed}:{recording.recording_id}")

    def accept(window: Window) -> bool:
        clear = is_clear(timeline, window, config)
        plan.num_unclear += not clear
        return clear

    windows = training_windows(
        timeline,
        grid_frames(recording, config),
        config.window_frames,
        fps=config.fps,
        offset_s=config.offset_s,
        random_per_minute=config.random_per_minute,
        accept=accept,
        rng=rng,
    )
    windows += wide_windows(recording, timeline, config, rng)
    return [(recording.recording_id, name_clip(recording, "train", window)) for window in windows]


def wide_windows(recording: Recording, timeline: Timeline, config: ClipsConfig, rng: random.Random) -> list[Window]:
    """Extra, wider windows around boundaries between labels that are named as confusable."""
    pairs = {frozenset(pair) for pair in config.confusable_pairs}
    length, total = frames(config.wide_window_s, config), grid_frames(recording, config)
    found: dict[int, Window] = {}
    for first, second in zip(timeline.stretches, timeline.stretches[1:]):
        if frozenset((first.label, second.label)) not in pairs or total <= length:
            continue
        for _ in range(config.confusable_copies):
            start = round((second.start_s - rng.uniform(0.2, 0.8) * config.wide_window_s) * config.fps)
            window = Window(min(max(start, 0), total - length), length, "across")
            if is_clear(timeline, window, config):
                found[window.start] = window
    return list(found.values())


def plan_canary(
    recording: Recording, timeline: Timeline, config: ClipsConfig, plan: Plan
) -> list[tuple[str, str, PlannedClip]]:
    """Candidates for the canary set from one recording: (recording id, label, clip)."""
    found = []
    total, stride = grid_frames(recording, config), config.canary_stride_s * config.fps
    for window in sliding_windows(total, config.window_frames, stride):
        truth = timeline.label_window(window.start / config.fps, window.length / config.fps, config.lead_share)
        if truth is None or truth.ambiguous:
            plan.num_unclear += 1
        else:
            found.append((recording.recording_id, truth.operation, name_clip(recording, "canary", window)))
    return found


def is_clear(timeline: Timeline, window: Window, config: ClipsConfig) -> bool:
    """Whether a window has one operation that leads."""
    truth = timeline.label_window(window.start / config.fps, window.length / config.fps, config.lead_share)
    return truth is not None and not truth.ambiguous


def grid_frames(recording: Recording, config: ClipsConfig) -> int:
    """Length of a recording in grid frames."""
    return max(1, round(recording.duration_s * config.fps))


def frames(seconds: float, config: ClipsConfig) -> int:
    """Seconds as grid frames, at least one."""
    return max(1, round(seconds * config.fps))


def name_clip(recording: Recording, split: ClipSplit, window: Window) -> PlannedClip:
    """A planned clip; ids are unique in a run, stable, and fit for shard members."""
    plain = re.sub(r"[^A-Za-z0-9_+=@-]", "_", recording.recording_id)
    if plain != recording.recording_id or len(plain) > 48:
        plain = f"{plain[:40]}-{hashlib.sha256(recording.recording_id.encode()).hexdigest()[:6]}"
    clip_id = f"{plain}-{window.start:06d}-{window.length}"
    return PlannedClip(clip_id=clip_id, split=split, window=window.kind, start=window.start, length=window.length)

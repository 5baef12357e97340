"""Cutting one recording: decode once, hand every frame to the windows over it, encode what they choose.

Runs in a worker process (`worker.py`). Memory is bounded by the longest window: frames no open window needs are let go.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from components.data_synthesis.clips.config import ClipsConfig
from components.data_synthesis.clips.plan import PlannedClip
from components.data_synthesis.clips.sampler_report import SamplerCounts, measure_samplers
from components.shared.runtime.config import Section
from components.shared.runtime.errors import InputError
from components.shared.samples.clip import ClipMeta
from components.shared.samples.clip_shards import encode_meta
from components.shared.samples.jpeg import encode_bgr
from components.shared.samples.shards import pack_sample
from components.shared.video.audio import AudioWindows, encode_flac
from components.shared.video.frame import Frame, RepeatedFrame
from components.shared.video.frame_folder import folder_frames
from components.shared.video.labelling import Timeline
from components.shared.video.letterbox import Letterbox
from components.shared.video.normalise import normalised_frames
from components.shared.video.samplers import SAMPLERS, BoundaryBoost, FrameSampler, make_sampler
from components.shared.work.manifest import Recording

VIEW_QUALITY = 95
SLACK_FRAMES = 3
"""Frames a recording may lack at its end (rounding of containers) and be padded rather than cut short."""


class CutRequest(Section):
    """One recording's work."""

    recording: Recording
    video: str
    """Absolute path."""
    clips: tuple[PlannedClip, ...]
    null_label: str | None
    provenance: str
    settings: ClipsConfig
    measure_samplers: bool
    part: str
    """File to write the packed clips to."""


class CutResult(Section):
    """What came of it."""

    sizes: tuple[int, ...] = ()
    """Bytes of each packed clip in the part file, in the order of `clip_ids`."""
    clip_ids: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    ambiguous: tuple[bool, ...] = ()
    num_frames: int = 0
    """Grid frames decoded."""
    num_padded: int = 0
    num_unlabelled: int = 0
    """Windows left out because no scored label is in them."""
    num_cut_short: int = 0
    """Windows left out because the recording ends before them, against its manifest."""
    width: int = 0
    height: int = 0
    lowered_gap: int = 0
    """Clips in which the sampler could not keep its distance."""
    seconds: float = 0.0
    counts: dict[str, SamplerCounts] = {}
    entropy: tuple[float, ...] = ()
    """Entropy of every grid frame, where the samplers were measured."""
    error: str = ""
    """Why the recording failed, '' where it did not."""
    system_error: int = 0
    """errno of a failure that is the machine's (disk full), not the recording's."""


class RecordingCutter:
    """Holds the frames that open windows need and encodes each chosen frame once."""

    def __init__(self, request: CutRequest) -> None:
        self.request, self.config = request, request.settings
        recording = request.recording
        self.timeline = Timeline(recording.segments, request.null_label, recording.duration_s)
        self.sampler = make_sampler(self.config.sampler, self.config.min_gap)
        self.measured: dict[str, FrameSampler] = {}
        if request.measure_samplers:
            self.measured = {name: make_sampler(name, self.config.min_gap) for name in SAMPLERS}
            self.measured[self.sampler.name] = self.sampler
        elif self.sampler.looks:
            self.measured = {self.sampler.name: self.sampler}
        self.raw: dict[str, list[float]] = {name: [] for name in self.measured}
        self.frames: dict[int, Frame] = {}
        self.encoded: dict[int, tuple[bytes, np.ndarray]] = {}
        self.audio = AudioWindows(Path(request.video)) if self.config.audio and recording.has_audio else None
        self.previous: np.ndarray | None = None
        self.facts = {"num_padded": 0, "num_unlabelled": 0, "num_cut_short": 0, "lowered_gap": 0}
        self.size = (0, 0)

    def cut(self, stream: Iterator[Frame]) -> Iterator[tuple[ClipMeta, bytes]]:
        """Consume a recording's frames; yields each clip's metadata and packed members, ascending by window end."""
        waiting = sorted(self.request.clips, key=lambda clip: (clip.start + clip.length, clip.start))
        needed = coverage(waiting)
        last: Frame | None = None
        count = 0
        for frame in stream:
            self.measure(frame)
            if frame.index < len(needed) and needed[frame.index]:
                self.frames[frame.index] = frame
            last, count = frame, frame.index + 1
            while waiting and waiting[0].start + waiting[0].length == count:
                yield from self.finish(waiting.pop(0), count)
                self.forget(waiting)
        if last is None:
            raise InputError(f"{self.request.recording.recording_id}: no frame decodes.")
        self.num_frames = count
        for clip in waiting:
            missing = clip.start + clip.length - count
            if clip.start and missing > SLACK_FRAMES:
                self.facts["num_cut_short"] += 1
                continue
            self.facts["num_padded"] += 1
            for index in range(count, clip.start + clip.length):
                self.frames[index] = RepeatedFrame(index, last)
                self.measure(self.frames[index], repeat=True)
            yield from self.finish(clip, count)

    def measure(self, frame: Frame, *, repeat: bool = False) -> None:
        """Let each sampler measure a frame."""
        if not self.measured or (repeat and frame.index < len(next(iter(self.raw.values())))):
            return
        luma = frame.luma()
        for name, sampler in self.measured.items():
            self.raw[name].append(sampler.measure(luma, self.previous))
        self.previous = luma

    def finish(self, clip: PlannedClip, available: int) -> Iterator[tuple[ClipMeta, bytes]]:
        """Choose, encode and pack the frames of a window whose frames are all there."""
        config, recording = self.config, self.request.recording
        start_s, duration_s = clip.start / config.fps, clip.length / config.fps
        truth = self.timeline.label_window(start_s, duration_s, config.lead_share)
        if truth is None:
            self.facts["num_unlabelled"] += 1
            return
        selection = self.sampler.select(
            self.raw[self.sampler.name][clip.start : clip.start + clip.length]
            if self.sampler.looks
            else np.zeros(clip.length),
            config.num_frames,
            fps=config.fps,
            boost=self.boost(clip),
        )
        self.facts["lowered_gap"] += self.sampler.looks and selection.gap < config.min_gap
        times = tuple(round(index / config.fps, 3) for index in selection.indices)
        under_way = [self.timeline.at(start_s + time_s) for time_s in times]
        meta = ClipMeta(
            clip_id=clip.clip_id,
            recording_id=recording.recording_id,
            subject=recording.subject,
            session=recording.session,
            split=clip.split,
            window=clip.window,
            start_s=round(start_s, 3),
            duration_s=duration_s,
            padded_s=round(max(clip.start + clip.length - available, 0) / config.fps, 3),
            frame_times_s=times,
            frame_labels=tuple(label for label, _ in under_way),
            frame_phases=tuple(round(phase, 3) for _, phase in under_way),
            operation=truth.operation,
            segment_s=truth.segment_s,
            next_operation=truth.next_operation,
            has_boundary=truth.has_boundary,
            ambiguous=truth.ambiguous,
            sampler=self.sampler.name,
            provenance=self.request.provenance,  # type: ignore[arg-type]
        )
        canary = clip.split == "canary"
        quality = config.canary_jpeg_quality if canary else config.jpeg_quality
        pictures = [self.encode(clip.start + index, quality) for index in selection.indices]
        strip = np.concatenate([view for _, view in pictures])
        members = {"json": encode_meta(meta), "view.jpg": encode_bgr(strip, quality=VIEW_QUALITY, full_colour=True)}
        members |= {f"{number:02d}.jpg": jpeg for number, (jpeg, _) in enumerate(pictures)}
        if self.audio and not canary:
            members["flac"] = encode_flac(self.audio.cut(start_s, duration_s))
        yield meta, pack_sample(clip.clip_id, members)

    def boost(self, clip: PlannedClip) -> BoundaryBoost | None:
        """The boundary boost of a training window, where configured."""
        if not self.config.boundary_boost or clip.split != "train":
            return None
        positions = tuple(b * self.config.fps - clip.start for b in self.timeline.boundaries())
        return BoundaryBoost(positions, self.config.fps, clip.split)

    def encode(self, index: int, quality: int) -> tuple[bytes, np.ndarray]:
        """A grid frame as source JPEG (4:2:0, as the video itself) and as policy view, BGR (size, size, 3).

        A frame is encoded once: a recording is canary or not, so all its clips ask for one quality.
        """
        if index not in self.encoded:
            image = self.frames[index].bgr()
            self.size = (image.shape[1], image.shape[0])
            box = Letterbox(image.shape[1], image.shape[0], self.config.view_size)
            jpeg = encode_bgr(image, quality=quality, full_colour=False)
            self.encoded[index] = (jpeg, box.apply(image))
        return self.encoded[index]

    def forget(self, waiting: list[PlannedClip]) -> None:
        """Let go of frames and sound that no window to come needs."""
        first = min((clip.start for clip in waiting), default=None)
        if first is None:
            return
        for kept in (self.frames, self.encoded):
            for index in [index for index in kept if index < first]:
                del kept[index]  # type: ignore[attr-defined]
        if self.audio:
            self.audio.forget(first / self.config.fps)


def coverage(clips: list[PlannedClip]) -> np.ndarray:
    """Which grid frames lie in any window, bool (frames,)."""
    needed = np.zeros(max((clip.start + clip.length for clip in clips), default=0), bool)
    for clip in clips:
        needed[clip.start : clip.start + clip.length] = True
    return needed


def open_frames(request: CutRequest) -> Iterator[Frame]:
    """A recording's frames on the grid, whatever its kind."""
    path = Path(request.video)
    if request.recording.kind == "frames":
        return folder_frames(path, fps=request.settings.fps)
    return normalised_frames(path, fps=request.settings.fps)


def cut_recording(request: CutRequest) -> CutResult:
    """Cut all windows of a recording into a part file of packed clips.

    Raises:
        InputError: the recording cannot be decoded; what was written to the part file is worthless then.
    """
    began = time.perf_counter()
    cv2.setNumThreads(1)
    cutter = RecordingCutter(request)
    rows: list[tuple[int, ClipMeta]] = []
    with open(request.part, "wb") as part:
        for meta, packed in cutter.cut(open_frames(request)):
            part.write(packed)
            rows.append((len(packed), meta))
    counts: dict[str, SamplerCounts] = {}
    if request.measure_samplers:
        counts = measure_samplers(cutter.measured, cutter.raw, cutter.timeline, cutter.num_frames, request.settings)
    return CutResult(
        sizes=tuple(size for size, _ in rows),
        clip_ids=tuple(meta.clip_id for _, meta in rows),
        splits=tuple(meta.split for _, meta in rows),
        operations=tuple(meta.operation for _, meta in rows),
        ambiguous=tuple(meta.ambiguous for _, meta in rows),
        num_frames=cutter.num_frames,
        width=cutter.size[0],
        height=cutter.size[1],
        seconds=round(time.perf_counter() - began, 4),
        counts=counts,
        entropy=tuple(round(value, 4) for value in cutter.raw.get("entropy", ())) if request.measure_samplers else (),
        **cutter.facts,
    )

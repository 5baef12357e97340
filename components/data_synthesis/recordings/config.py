"""The `recordings` section: where recordings come from, how people are split, and what the digital twin renders.

Guarantee: imports nothing heavy, so that composing the configuration stays instant.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from components.shared.runtime.config import Section, StepSection
from components.shared.work.people import DEFAULT_SPLIT


class ShiftSection(Section):
    """Domain shift of the twin's test people, for experiments on learning after deployment; all off by default."""

    light: float = Field(1.0, gt=0.2, le=3.0)
    """Factor on the brightness of every picture."""
    camera: float = Field(0.0, ge=0.0, le=1.0)
    """How far the camera is turned, moved and zoomed: 0 not at all, 1 up to 12 degrees, 8 % of the width, 15 % zoom."""
    speed: float = Field(1.0, gt=0.2, le=5.0)
    """Factor on the speed of work: durations are divided by it."""
    occlusion: float = Field(0.0, ge=0.0, le=1.0)
    """Share of the time in which somebody's shadow or arm passes over the bench."""
    splits: tuple[Literal["train", "validation", "test"], ...] = ("test",)
    """Sides of the split the shift applies to."""


class TwinSection(Section):
    """The digital twin: how many people, how long, how large, how varied."""

    num_train_people: int = Field(270, ge=1, le=5000)
    """People on the training side (`clips.canary_share` of them serve the canary): diversity decides generalisation."""
    num_validation_people: int = Field(20, ge=1, le=1000)
    """People on the validation side."""
    num_test_people: int = Field(45, ge=1, le=1000)
    """People on the test side."""
    sessions_per_person: int = Field(1, ge=1, le=20)
    """Recordings of each person."""
    train_session_s: float = Field(13.0, ge=2.0, le=14400.0)
    """Length of a training recording in seconds."""
    validation_session_s: float = Field(14.0, ge=2.0, le=14400.0)
    """Length of a validation recording in seconds."""
    test_session_s: float = Field(30.0, ge=2.0, le=14400.0)
    """Length of a test recording in seconds."""
    width: int = Field(448, ge=112, le=1920, multiple_of=16)
    """Picture width in pixels."""
    height: int = Field(336, ge=84, le=1440, multiple_of=12)
    """Picture height in pixels."""
    fps: int = Field(25, ge=5, le=60)
    """Frames per second."""
    duration_scale: float = Field(0.33, gt=0.05, le=3.0)
    """Factor on the official operations' typical durations: short enough that a constant answer does not win."""
    duration_spread: tuple[float, float] = (0.4, 1.8)
    """Each operation's duration is multiplied by a uniform draw from this range."""
    duration_factors: dict[int, float] = {}
    """Extra factor per operation id (for instance `{100: 2.0}`): the class distribution by time."""
    regularity: float = Field(0.0, ge=0.0, le=1.0)
    """0: skips and repeats as often as the order of work says; 1: always the usual next operation."""
    null_probability: float = Field(0.08, ge=0.0, le=0.9)
    """Chance of a short pause (Null) between two operations."""
    appearance: float = Field(1.0, ge=0.0, le=1.0)
    """Variety of layout, colours and sizes between people: 0 everybody alike, 1 everything differs."""
    left_handed_share: float = Field(0.0, ge=0.0, le=1.0)
    """Share of people whose whole workplace is mirrored (rare cases cost accuracy on few people)."""
    lighting: float = Field(1.0, ge=0.0, le=1.0)
    """Variety of brightness, colour temperature and light gradient between people."""
    camera_noise: float = Field(2.0, ge=0.0, le=20.0)
    """Strength of the sensor noise that changes from frame to frame, in grey levels."""
    audio: bool = True
    """Whether recordings carry a sound track."""
    audio_rate_hz: int = Field(16000, ge=8000, le=48000)
    """Sampling rate of the sound track."""
    crf: int = Field(24, ge=0, le=40)
    """H.264 constant rate factor: larger is smaller and worse."""
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium"] = "ultrafast"
    """H.264 preset."""
    shift: ShiftSection = ShiftSection()
    """Domain shift."""

    @model_validator(mode="after")
    def _spread_is_a_range(self) -> Self:
        low, high = self.duration_spread
        if not 0 < low <= high <= 20:
            raise ValueError("duration_spread must be two numbers with 0 < low <= high <= 20")
        return self


class RecordingsConfig(StepSection):
    """Where recordings come from and on which side of the split each person falls."""

    source: Literal["twin", "openpack", "segments"] = "twin"
    """`twin`: rendered here; `openpack`: an official tree; `segments`: a folder of videos with segments.csv."""
    path: str = ""
    """Folder of the recordings, or its address in an object store (s3://, minio://, gs://); unused by the twin."""
    listing: str = ""
    """Digest of names, sizes and times under `path`, filled by `configure`: new recordings are not taken for old."""
    train_people: tuple[str, ...] = DEFAULT_SPLIT["train"]
    """OpenPack people on the training side (aliases are resolved)."""
    validation_people: tuple[str, ...] = DEFAULT_SPLIT["validation"]
    """OpenPack people on the validation side."""
    test_people: tuple[str, ...] = DEFAULT_SPLIT["test"]
    """OpenPack people on the test side."""
    other_people: Literal["train", "validation", "test", "skip"] = "train"
    """Side of OpenPack people who are in none of the three lists."""
    validation_share: float = Field(0.15, gt=0.0, lt=0.5)
    """Share of validation where a segments folder gives no split of its own."""
    test_share: float = Field(0.3, gt=0.0, lt=0.8)
    """Share of test where a segments folder gives no split of its own."""
    video_start: Literal["metadata", "annotation"] = "metadata"
    """When an OpenPack session video begins: its creation_time, or the first annotated operation."""
    max_bad_share: float = Field(0.2, ge=0.0, le=1.0)
    """The step fails when more than this share of the recordings cannot be read."""
    copy_videos: bool = True
    """Copy a segments or OpenPack video into the artifact; False records its absolute path (never of an address)."""
    workers: int = Field(0, ge=0, le=256)
    """Processes that render; 0 is one per core. The result does not depend on it."""
    twin: TwinSection = TwinSection()
    """The digital twin."""

    @model_validator(mode="after")
    def _path_goes_with_source(self) -> Self:
        if self.source != "twin" and not self.path:
            raise ValueError(f"recordings.path must name a folder when recordings.source is {self.source!r}")
        return self

"""The section `clips` of pipeline_config.yaml."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from components.shared.runtime.config import StepSection


class ClipsConfig(StepSection):
    """How recordings are cut into clips."""

    window_s: float = Field(5.0, gt=0.5, le=60)
    """Length of a window, seconds."""
    fps: int = Field(25, ge=1, le=60)
    """Rate that recordings are normalised to, frames a second."""
    num_frames: int = Field(16, ge=2, le=100)
    """Frames chosen from a window; the policy sees these."""
    view_size: int = Field(56, ge=14, le=1024)
    """Side of the policy's letterboxed view, pixels."""
    jpeg_quality: int = Field(90, ge=50, le=100)
    """Quality of the chosen frames at source resolution."""
    sampler: Literal["uniform", "entropy", "motion", "flow"] = "uniform"
    """How frames are chosen from a window."""
    min_gap: int = Field(5, ge=1, le=100)
    """Least distance between chosen frames (lowered where that many do not fit)."""
    boundary_boost: bool = False
    """Weigh the sampler's signal 1.5 times near boundaries, in training windows only."""
    lead_share: float = Field(0.0625, ge=0, le=1)
    """A window is ambiguous where its operation leads by less than this share of it (1/16: one chosen frame)."""
    offset_s: float = Field(1.25, ge=0, le=30)
    """Largest random offset of training windows before and after a boundary, seconds."""
    random_per_minute: float = Field(12.0, ge=0, le=600)
    """Random training windows a minute of recording."""
    stride_s: float = Field(2.5, gt=0, le=60)
    """Stride of the sliding windows of validation and test, seconds."""
    max_clips: int = Field(2400, ge=0)
    """Most training clips of a run, drawn at random from all planned; 0 for no limit."""
    confusable_pairs: tuple[tuple[str, str], ...] = ()
    """Pairs of labels that get extra, wider training windows around their common boundaries."""
    confusable_copies: int = Field(2, ge=0, le=20)
    """Extra windows for each boundary between a confusable pair."""
    wide_window_s: float = Field(7.5, gt=0.5, le=60)
    """Length of those extra windows, seconds."""
    canary_share: float = Field(0.2, gt=0, lt=0.5)
    """Share of the training people whose clips form the canary set and nothing else."""
    canary_per_class: int = Field(100, ge=1)
    """Most canary clips of a label."""
    canary_stride_s: float = Field(0.16, gt=0, le=60)
    """Stride of the windows that canary clips are drawn from, seconds."""
    canary_jpeg_quality: int = Field(75, ge=50, le=100)
    """Quality of canary clips' frames at source resolution: all of them ship with the model."""
    audio: bool = True
    """Keep each window's sound where the recording has any (never a canary clip's: nothing that judges by it hears)."""
    num_groups: int = Field(2, ge=1, le=256)
    """Groups of recordings the step fans out over; fixed when the pipeline is compiled."""
    workers: int = Field(1, ge=1, le=128)
    """Decoding processes of one group; the output does not depend on it."""
    recording_timeout_s: float = Field(120.0, gt=0)
    """Time a recording may take, plus four times its own length, before it counts as failed."""
    worker_memory_gib: float = Field(6.0, gt=0.5, le=512)
    """Address space a decoding process may use."""
    max_failed_share: float = Field(0.1, ge=0, le=1)
    """Share of the recordings that may fail before the step does."""
    report_recordings: int = Field(24, ge=0)
    """Recordings on which every sampler is measured against uniform; 0 for no sampler report."""
    num_examples: int = Field(20, ge=0, le=200)
    """Clips shown in examples/index.html."""
    max_shard_mb: float = Field(200.0, gt=0.01, le=200)
    """Largest shard, megabytes (10^6 bytes)."""

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuse combinations that cannot work."""
        if self.num_frames > self.window_s * self.fps:
            raise ValueError(
                f"num_frames = {self.num_frames} is more than the {self.window_s * self.fps:g} frames of a window"
            )
        return self

    @property
    def window_frames(self) -> int:
        """Window length in frames of the normalised grid."""
        return round(self.window_s * self.fps)

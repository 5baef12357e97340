"""A clip: one window of a recording, with its chosen frames at source resolution and as the policy sees them.

In a WebDataset shard a clip with key K is the members

    K.json          ClipMeta
    K.view.jpg      the policy's frames, stacked vertically: (frames * size, size, 3), letterboxed, JPEG q95 4:4:4
    K.00.jpg ...    the same frames at source resolution, one member a frame
    K.flac          the window's sound, 16 kHz mono (absent without an audio track)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import Field

from components.shared.runtime.config import Section


class ClipMeta(Section):
    """Everything about a clip but its pixels; times are seconds from the window's start unless said otherwise."""

    clip_id: str
    recording_id: str
    subject: str
    session: str
    split: Literal["train", "validation", "test", "canary"]
    window: Literal["before", "across", "after", "random", "sliding"]
    start_s: float = Field(ge=0)
    """Window start in the recording."""
    duration_s: float
    """Window length (5 s by default), padding included."""
    padded_s: float = 0.0
    """Length of the frozen last frame that fills a recording shorter than the window."""
    frame_times_s: tuple[float, ...]
    """Times of the chosen frames, ascending."""
    frame_labels: tuple[str, ...]
    """Label under way at each chosen frame (the null label or '' where none)."""
    frame_phases: tuple[float, ...]
    """How far through its segment each chosen frame is, 0..1."""
    operation: str
    """The label with most overlap: the answer."""
    segment_s: tuple[float, float]
    """That label's segment, clipped to the window."""
    next_operation: str | None
    """The next differing label that is not null, None at the recording's end."""
    has_boundary: bool
    ambiguous: bool = False
    """True where no label leads clearly: left out of training and scoring, counted in the report."""
    sampler: str
    provenance: Literal["synthetic", "real"]


@dataclass(frozen=True)
class Clip:
    """A clip with its pixels; JPEG members are decoded when first asked for."""

    meta: ClipMeta
    view_jpeg: bytes
    source_jpegs: tuple[bytes, ...] = field(repr=False)
    audio_flac: bytes | None = field(default=None, repr=False)

    @cached_property
    def view_frames(self) -> np.ndarray:
        """The policy's frames, uint8 RGB (frames, size, size, 3)."""
        from components.shared.samples.jpeg import decode_jpeg

        strip = decode_jpeg(self.view_jpeg)
        return strip.reshape(len(self.meta.frame_times_s), -1, strip.shape[1], 3)

    def source_frame(self, index: int) -> np.ndarray:
        """One chosen frame at source resolution, uint8 RGB (height, width, 3)."""
        from components.shared.samples.jpeg import decode_jpeg

        return decode_jpeg(self.source_jpegs[index])

"""Settings of the operations; the same section must be used wherever one policy is trained, evaluated and served."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from components.shared.runtime.config import Section


class OperationsConfig(Section):
    """Settings of the built-in operations and the registry's limits."""

    zoom_size: int | None = Field(None, ge=28, le=4096)
    """Side in pixels of ZOOM_IN's square output; None returns the crop as it is."""
    zoom_padding: float = Field(0.1, ge=0, le=1)
    """ZOOM_IN's context on each side as a share of the box's width and height, where the call gives none."""
    zoom_fit: Literal["letterbox", "resize"] = "letterbox"
    """How a crop becomes square: `letterbox` keeps its shape on black, `resize` stretches it."""
    zoom_min_side: int = Field(28, ge=1, le=1024)
    """Source crops with a side of this many pixels or fewer are refused."""
    segment_backend: Literal["classical", "sam2"] = "classical"
    """Who answers SEGMENT_OBJECT_AT: GrabCut at several sizes, or SAM 2 through transformers."""
    track_backend: Literal["classical", "sam2"] = "classical"
    """Who answers TRACK_OBJECT: a correlation filter with a colour model, or SAM 2's video model."""
    sam2_model: str = ""
    """SAM 2's hub name or folder, where a backend is `sam2`; one checkpoint serves pictures and videos."""
    sam2_revision: str = ""
    """Pinned revision of a hub name."""
    sam2_device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    """Where SAM 2 runs."""
    time_limit_s: float = Field(30.0, gt=0, le=600)
    """A call that takes longer fails with `timeout`."""
    max_calls: int = Field(16, ge=1, le=1000)
    """Calls of one answer that are executed; the rest fail with `too_many_calls`."""
    max_frame_pixels: int = Field(64_000_000, ge=1, le=1_000_000_000)
    """Frames with more pixels are refused."""
    max_image_pixels: int = Field(4_000_000, ge=1, le=64_000_000)
    """Largest image an operation may return."""
    max_text_chars: int = Field(4000, ge=100, le=100_000)
    """Longer texts are cut, with a mark."""
    cache_bytes: int = Field(64 * 2**20, ge=0, le=16 * 2**30)
    """Memory for cached results, 0 for no cache."""
    quarantine_after: int = Field(3, ge=1, le=1000)
    """An operation that hung this often is no longer called."""

    @model_validator(mode="after")
    def _sam2_needs_a_model(self) -> Self:
        if "sam2" in (self.segment_backend, self.track_backend) and not self.sam2_model:
            raise ValueError("sam2_model must name SAM 2 weights where segment_backend or track_backend is 'sam2'")
        return self


TWIN_OPERATIONS = OperationsConfig(zoom_size=112, zoom_padding=0.0)
"""The twin profile's settings: 4x4 grid cells come back as 112x112 crops without padding."""

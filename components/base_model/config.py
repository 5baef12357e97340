"""The `base_model` section: where the policy's starting weights come from, and how the tiny ones are pretrained."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from components.shared.operations.config import TWIN_OPERATIONS, OperationsConfig
from components.shared.policy.description import PolicyKind
from components.shared.policy.shapes import RecursionShape
from components.shared.runtime.config import Section, StepSection


class TinySizeConfig(Section):
    """Sizes of the tiny Qwen2.5-VL."""

    hidden: int = Field(192, ge=32, le=1024)
    """Width of the language model."""
    layers: int = Field(4, ge=1, le=32)
    """Layers of the language model."""
    heads: int = Field(4, ge=1, le=32)
    """Attention heads."""
    kv_heads: int = Field(2, ge=1, le=32)
    """Key and value heads."""
    intermediate: int = Field(512, ge=32, le=8192)
    """Width of the language model's feed-forward layers."""
    vision_hidden: int = Field(128, ge=16, le=1024)
    """Width of the vision tower."""
    vision_depth: int = Field(4, ge=1, le=32)
    """Blocks of the vision tower."""
    vision_heads: int = Field(4, ge=1, le=32)
    """Attention heads of the vision tower."""
    patch: int = Field(14, ge=4, le=32)
    """Side of a patch in pixels."""
    merge: int = Field(4, ge=1, le=8)
    """Patches a side that become one token: 4 makes a 56-pixel frame one token."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden % (2 * self.heads) or self.heads % self.kv_heads:
            raise ValueError("hidden must be a multiple of 2 * heads, and heads one of kv_heads")
        if self.vision_hidden % (4 * self.vision_heads):
            raise ValueError("vision_hidden must be a multiple of 4 * vision_heads")
        return self


class VisionStageConfig(Section):
    """Dense supervision of the vision tower: the operation and its phase on single frames, values on close crops."""

    steps: int = Field(280, ge=0, le=1_000_000)
    """Optimiser steps."""
    batch: int = Field(128, ge=1, le=8192)
    """Frames a step."""
    crops: int = Field(16, ge=0, le=1024)
    """Crops of the evidence a step, where the data has close-up questions."""
    learning_rate: float = Field(1.5e-3, gt=0, le=1)
    """Peak of a one-cycle schedule."""
    phase_weight: float = Field(0.5, ge=0, le=10)
    """Weight of the squared error on the phase."""
    crop_weight: float = Field(0.5, ge=0, le=10)
    """Weight of the close-up value's cross-entropy."""


class LanguageStageConfig(Section):
    """Full-parameter training of the language model on frozen, cached vision features."""

    steps: int = Field(400, ge=0, le=1_000_000)
    """Optimiser steps."""
    batch: int = Field(28, ge=1, le=4096)
    """Conversations a step, drills not counted."""
    learning_rate: float = Field(1.5e-3, gt=0, le=1)
    """Peak of a one-cycle schedule."""
    dense_weight: float = Field(0.5, ge=0, le=10)
    """Weight of the dense loss: the state at each frame must name the frame's operation and when its run began."""
    drills: int = Field(20, ge=0, le=4096)
    """Short conversations about close-ups added to each step: reading a crop, calling for one."""
    drill_weight: float = Field(0.5, ge=0, le=10)
    """Weight of their loss."""
    caption_share: float = Field(0.15, ge=0, le=1)
    """Share of conversations that ask for all segments of the window."""
    closeup_share: float = Field(0.15, ge=0, le=1)
    """Share of conversations about a close-up, where the data has any."""


class HubConfig(Section):
    """A downloaded base."""

    repo: str = "Qwen/Qwen2.5-VL-3B-Instruct"
    """Repository on the hub."""
    revision: str = Field("", pattern=r"^([0-9a-f]{40})?$")
    """Pinned commit, 40 hex digits; required unless `path` is given."""
    path: str = ""
    """Local folder in hub layout; used instead of the hub, and nothing is downloaded."""
    sha256: dict[str, str] = {}
    """Expected digests by file name; files not named are not checked."""
    view_size: int = Field(224, ge=28, le=1344)
    """Side of the policy's frames in pixels (the clips' view size)."""
    max_pixels: int = Field(336 * 336, ge=784, le=16_777_216)
    """A larger image is scaled down to this many pixels: bounds the tokens of 16 frames."""


class BaseModelConfig(StepSection):
    """The policy's starting weights."""

    kind: Literal["tiny", "hub"] = "tiny"
    """`tiny`: built from configuration and pretrained here; `hub`: downloaded at a pinned revision."""
    policy: PolicyKind = "native"
    """`native`: Qwen2.5-VL with a vision tower of its own. `prefix`: the alignment step's frozen image tokens before a
    Qwen language model; `prefix_trm`: the same, its last states refined by recursion; `trm_decoder` (experiment): a
    recursive network in place of Qwen. All but `native` make the pipeline run alignment before this step."""
    recursion: RecursionShape = RecursionShape()
    """The recursive network of `prefix_trm` and `trm_decoder`."""
    size: TinySizeConfig = TinySizeConfig()
    """Sizes of `tiny`."""
    vocabulary: int = Field(600, ge=300, le=50_000)
    """Byte pairs of the tiny tokenizer, before its added tokens."""
    max_clips: int = Field(4000, ge=1, le=1_000_000)
    """Training clips that are read into memory (about 150 kB each)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """In what the tiny ones' training multiplies matrices; `auto`: bfloat16 where the processor has instructions for it
    (two to three times as fast), float32 elsewhere. Weights are float32 either way."""
    vision: VisionStageConfig = VisionStageConfig()
    """First stage."""
    language: LanguageStageConfig = LanguageStageConfig()
    """Second stage."""
    num_validation: int = Field(300, ge=1, le=100_000)
    """Validation questions asked at the end."""
    operations: OperationsConfig = TWIN_OPERATIONS
    """Settings of the operations: the ones the trajectories were made with."""
    hub: HubConfig = HubConfig()
    """Settings of `hub`."""

    @model_validator(mode="after")
    def _hub_is_pinned(self) -> Self:
        if self.kind == "hub" and not self.hub.path and not self.hub.revision:
            raise ValueError("hub.revision (a commit of 40 hex digits) or hub.path must be given where kind is hub")
        if self.kind == "hub" and self.policy != "native":
            raise ValueError(f"policy {self.policy} is built and trained here (kind: tiny), not downloaded")
        return self

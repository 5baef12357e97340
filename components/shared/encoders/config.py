"""The shape of an encoder: what `encoder.json` holds and what the alignment step's section carries. Imports no torch.

Notation used in this package: B samples, T frames of a clip, K tokens of a frame, L tokens of a sequence, D the full
embedding width, S the frame's side in pixels.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from components.shared.runtime.config import Section

WHISPER_HOP = 160
"""Samples between two mel frames of every released Whisper checkpoint."""


class VisionShape(Section):
    """The image tower, a CLIPVisionModel."""

    pretrained: str = ""
    """Folder in hub layout or hub name of a CLIP checkpoint; empty builds a tiny tower from the numbers below."""
    revision: str = ""
    """Commit of the hub checkpoint; required with a hub name."""
    frozen: bool = False
    """Train only what stands on top of the tower."""
    image_size: int = Field(56, ge=14, le=672)
    """Side of the square frames the tower sees (pixels)."""
    patch_size: int = Field(14, ge=4, le=32)
    """Side of a patch (pixels)."""
    hidden: int = Field(128, ge=16, le=1024)
    """Width of the tiny tower."""
    layers: int = Field(2, ge=1, le=24)
    """Depth of the tiny tower."""
    heads: int = Field(4, ge=1, le=16)
    """Attention heads of the tiny tower."""
    tokens: Literal["cls", "mean", "merged", "patches"] = "merged"
    """What a frame hands on: its class token (pretrained CLIP), the mean of its patches, all patches side by side as
    one token (learns fastest from scratch), or class token and patches as a sequence."""


class TextShape(Section):
    """The text tower: CLIPTextModel, or any transformers encoder with mean pooling."""

    pretrained: str = ""
    """Folder in hub layout or hub name of a text encoder; empty builds a tiny CLIPTextModel."""
    revision: str = ""
    """Commit of the hub checkpoint; required with a hub name."""
    frozen: bool = False
    """Train only the projector."""
    vocabulary: int = Field(600, ge=280, le=50000)
    """Most tokens of the tiny tower's own byte-level BPE."""
    hidden: int = Field(96, ge=16, le=1024)
    """Width of the tiny tower."""
    layers: int = Field(2, ge=1, le=12)
    """Depth of the tiny tower."""
    heads: int = Field(4, ge=1, le=16)
    """Attention heads of the tiny tower."""
    pooling: Literal["end", "mean"] = "mean"
    """A text's vector: its last token (pretrained CLIP), or the mean of its tokens (others; faster from scratch)."""
    max_tokens: int = Field(48, ge=8, le=512)
    """Longer texts are cut here."""


class AudioShape(Section):
    """The sound tower, a Whisper encoder on log-mel."""

    pretrained: str = ""
    """Folder in hub layout or hub name of a Whisper checkpoint; empty builds a tiny one."""
    revision: str = ""
    """Commit of the hub checkpoint; required with a hub name."""
    frozen: bool = False
    """Train only what stands on top of the tower."""
    num_mel_bins: int = Field(40, ge=16, le=128)
    """Mel bands (80 or 128 for released Whisper checkpoints)."""
    hop_length: int = Field(320, ge=80, le=400)
    """Samples of 16 kHz sound between two mel frames; 160 for released Whisper checkpoints."""
    seconds: float = Field(5.0, gt=0, le=30)
    """Length of the sound window; longer sound is cut, shorter is padded and masked."""
    hidden: int = Field(64, ge=16, le=1280)
    """Width of the tiny tower."""
    layers: int = Field(1, ge=1, le=32)
    """Depth of the tiny tower."""
    heads: int = Field(4, ge=1, le=20)
    """Attention heads of the tiny tower."""
    states_per_token: int = Field(5, ge=1, le=50)
    """States of the tower (40 ms each at the default hop) averaged into one token."""
    centred: bool = True
    """Take each band's mean over the sound from the log-mel, so that the room's steady noise does not count; never done
    for a pretrained tower, which was not trained so."""


class EncoderConfig(Section):
    """A whole alignment encoder."""

    widths: tuple[int, ...] = (32, 64, 128)
    """Matryoshka widths, ascending; the last is the full width D."""
    pooling: Literal["mean", "attention", "perceiver"] = "perceiver"
    """How a token sequence becomes one vector; the last two add to the mean and start from it."""
    num_latents: int = Field(8, ge=1, le=256)
    """Learned latents of the Perceiver resampler."""
    perceiver_depth: int = Field(1, ge=1, le=8)
    """Perceiver blocks."""
    perceiver_heads: int = Field(4, ge=1, le=16)
    """Attention heads of the Perceiver and of attention pooling."""
    audio: bool = False
    """Also align the clips' sound (needs recordings with an audio track)."""
    fusion: Literal["none", "concat", "cross", "gated"] = "none"
    """How pictures and sound become one embedding, which is aligned with the text besides; needs `audio`."""
    vision_tower: VisionShape = VisionShape()
    """The image tower."""
    text_tower: TextShape = TextShape()
    """The text tower."""
    audio_tower: AudioShape = AudioShape()
    """The sound tower; unused without `audio`."""

    @property
    def full_width(self) -> int:
        """D, the full embedding width."""
        return self.widths[-1]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.widths or list(self.widths) != sorted(set(self.widths)) or self.widths[0] < 1:
            raise ValueError("widths must be positive, distinct and ascending")
        if self.fusion != "none" and not self.audio:
            raise ValueError(f"fusion {self.fusion} joins pictures and sound, so audio must be on")
        if self.full_width % self.perceiver_heads:
            raise ValueError(
                f"the full width {self.full_width} must be a multiple of perceiver_heads {self.perceiver_heads}"
            )
        if self.vision_tower.image_size % self.vision_tower.patch_size:
            raise ValueError("vision_tower.image_size must be a multiple of vision_tower.patch_size")
        for name, tower in (
            ("vision_tower", self.vision_tower),
            ("text_tower", self.text_tower),
            ("audio_tower", self.audio_tower),
        ):
            if tower is self.audio_tower and tower.pretrained and self.audio_tower.hop_length != WHISPER_HOP:
                raise ValueError(f"audio_tower.hop_length must be {WHISPER_HOP} with a pretrained tower")
            if not tower.pretrained and tower.hidden % tower.heads:
                raise ValueError(f"{name}.hidden {tower.hidden} must be a multiple of its heads {tower.heads}")
        return self

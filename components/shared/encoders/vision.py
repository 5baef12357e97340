"""Frames to embeddings: CLIPVisionModel per frame, a projector, pooling over the frames of a clip."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from components.shared.encoders.config import EncoderConfig
from components.shared.encoders.matryoshka import Encoded, nested
from components.shared.encoders.perceiver import Pool

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def to_pixels(frames: np.ndarray, size: int) -> torch.Tensor:
    """uint8 RGB frames (N, H, W, 3) as normalised float (N, 3, size, size); other sizes are area-resampled.

    Raises:
        ValueError: not uint8 (N, H, W, 3).
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}; uint8 (N, H, W, 3) is needed.")
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255
    if pixels.shape[-2:] != (size, size):
        pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return (pixels - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]


def tiny_vision_config(config: EncoderConfig) -> CLIPVisionConfig:
    """The transformers configuration of a tower built from numbers."""
    shape = config.vision_tower
    return CLIPVisionConfig(
        hidden_size=shape.hidden,
        intermediate_size=4 * shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        image_size=shape.image_size,
        patch_size=shape.patch_size,
    )


class VisionEncoder(nn.Module):
    """Tower, projector and pooling; `frame_features` can be cached where the tower is frozen."""

    def __init__(self, config: EncoderConfig, tower: CLIPVisionModel) -> None:
        super().__init__()
        self.widths, self.tokens = config.widths, config.vision_tower.tokens
        self.image_size = int(tower.config.image_size)  # type: ignore[arg-type]
        self.tower = tower
        hidden, dim = int(tower.config.hidden_size), config.full_width
        num_patches = (self.image_size // int(tower.config.patch_size)) ** 2  # type: ignore[arg-type]
        self.tokens_a_frame = 1 + num_patches if self.tokens == "patches" else 1
        wide = hidden * num_patches if self.tokens == "merged" else hidden
        self.projector = nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, dim), nn.GELU(), nn.Linear(dim, dim))
        self.pool = Pool(
            config.pooling,
            dim,
            num_latents=config.num_latents,
            depth=config.perceiver_depth,
            heads=config.perceiver_heads,
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are; inputs are brought there."""
        return self.tower.device

    def frame_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) -> (N, K, width): K = 1, or 1 + patches; width = hidden, or times patches where merged."""
        out = self.tower(pixel_values=pixels.to(self.device))
        first, patches = out.pooler_output[:, None], out.last_hidden_state[:, 1:]
        if self.tokens == "mean":
            return patches.mean(dim=1, keepdim=True)
        if self.tokens == "merged":
            return patches.flatten(1)[:, None]
        return first if self.tokens == "cls" else torch.cat([first, patches], dim=1)

    def frames(self, features: torch.Tensor) -> Encoded:
        """Single frames: features (N, K, width) -> embeddings of the class token, no pooling over time."""
        sequence = self.projector(features.to(self.device))
        return Encoded(sequence[:, 0], sequence, nested(sequence[:, 0], self.widths))

    def clip(self, features: torch.Tensor, times_s: torch.Tensor, mask: torch.Tensor | None = None) -> Encoded:
        """Clips.

        Args:
            features: (B, T, K, width).
            times_s: (B, T) seconds from the clip's start.
            mask: (B, T) bool, True where a frame is real; None: all are.
        """
        tokens_a_frame = features.shape[2]
        spread = lambda x: x[..., None].expand(-1, -1, tokens_a_frame).flatten(1)
        media = self.projector(features.to(self.device)).flatten(1, 2)
        real = None if mask is None else spread(mask.to(self.device))
        pooled, sequence = self.pool(media, real, spread(times_s.to(self.device)))
        return Encoded(pooled, sequence, nested(pooled, self.widths))

    def forward(self, pixels: torch.Tensor, times_s: torch.Tensor, mask: torch.Tensor | None = None) -> Encoded:
        """pixels (B, T, 3, S, S), times (B, T), mask (B, T) -> Encoded."""
        batch, num_frames = pixels.shape[:2]
        features = self.frame_features(pixels.flatten(0, 1))
        return self.clip(features.unflatten(0, (batch, num_frames)), times_s, mask)

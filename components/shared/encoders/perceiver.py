"""Perceiver resampler, attention pooling and time embeddings: many tokens of varying number to few of fixed number.

Source: Flamingo (Alayrac et al. 2022) in the form of open_flamingo: separate norms for media and latents, keys and
values from concat(media, latents). Deviation: times are seconds turned into Fourier features, not indices of a learned
table, so unequal frame spacing and any number of frames work.

Guarantee: what stands in padded positions, NaN included, does not reach the result.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


class TimeEmbedding(nn.Module):
    """Seconds to vectors: sines and cosines of periods 0.5 s to 64 s, then a linear map."""

    omega: torch.Tensor

    def __init__(self, dim: int, *, num_periods: int = 8) -> None:
        super().__init__()
        periods = 0.5 * 2 ** torch.arange(num_periods, dtype=torch.float32)
        self.register_buffer("omega", 2 * math.pi / periods, persistent=False)
        self.linear = nn.Linear(2 * num_periods, dim, bias=False)
        nn.init.normal_(self.linear.weight, std=0.02)

    def forward(self, times_s: torch.Tensor) -> torch.Tensor:
        """(…,) seconds -> (…, dim)."""
        angle = times_s[..., None] * self.omega
        return self.linear(torch.cat([angle.sin(), angle.cos()], dim=-1))


class CrossAttention(nn.Module):
    """Latents look at concat(media, latents); residual, with its feed-forward."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_media, self.norm_latents, self.norm_out = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_query = nn.Linear(dim, dim, bias=False)
        self.to_key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, 4 * dim, bias=False), nn.GELU(), nn.Linear(4 * dim, dim, bias=False)
        )

    def forward(self, media: torch.Tensor, latents: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """media (B, N, D), latents (B, L, D), mask (B, N) bool, True where a token is real -> (B, L, D)."""
        media, queries = self.norm_media(media), self.norm_latents(latents)
        keys, values = self.to_key_value(torch.cat([media, queries], dim=1)).chunk(2, dim=-1)
        visible = torch.cat([mask, mask.new_ones(latents.shape[:2])], dim=1)[:, None, None, :]
        split = lambda x: x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        seen = F.scaled_dot_product_attention(
            split(self.to_query(queries)), split(keys), split(values), attn_mask=visible
        )
        latents = latents + self.to_out(seen.transpose(1, 2).flatten(2))
        return latents + self.feed_forward(self.norm_out(latents))


class PerceiverResampler(nn.Module):
    """Any number of media tokens to `num_latents` tokens."""

    def __init__(self, dim: int, *, num_latents: int, depth: int, heads: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(num_latents, dim) * 0.02)
        self.time = TimeEmbedding(dim)
        self.blocks = nn.ModuleList(CrossAttention(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, media: torch.Tensor, mask: torch.Tensor | None = None, times_s: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Resample.

        Args:
            media: (B, N, D).
            mask: (B, N) bool, True where a token is real; None: all are.
            times_s: (B, N) seconds of each token, None where tokens have no time.

        Returns:
            (B, num_latents, D).
        """
        if mask is None:
            mask = media.new_ones(media.shape[:2], dtype=torch.bool)
        if times_s is not None:
            media = media + self.time(times_s)
        media = media.masked_fill(~mask[..., None], 0.0)
        latents = self.latents.expand(len(media), -1, -1)
        for block in self.blocks:
            latents = block(media, latents, mask)
        return self.norm(latents)


def masked_mean(tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Mean over real tokens: (B, N, D), (B, N) -> (B, D); zero where a row has none."""
    if mask is None:
        return tokens.mean(dim=1)
    kept = tokens.masked_fill(~mask[..., None], 0.0)
    return kept.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1).to(tokens.dtype)


class Pool(nn.Module):
    """A token sequence to (pooled, sequence); everything past the mean is added to it, gated from zero.

    So pooling starts as the mean, which a tower trained on single frames already serves, and learns what order adds.
    """

    def __init__(self, kind: str, dim: int, *, num_latents: int, depth: int, heads: int) -> None:
        super().__init__()
        count = num_latents if kind == "perceiver" else 1
        self.resampler = (
            None if kind == "mean" else PerceiverResampler(dim, num_latents=count, depth=depth, heads=heads)
        )
        self.keep_tokens = kind != "perceiver"
        self.mix = nn.Linear(dim, dim) if self.resampler is not None else None
        if self.mix is not None:
            nn.init.zeros_(self.mix.weight)
            nn.init.zeros_(self.mix.bias)

    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor | None = None, times_s: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """tokens (B, N, D), mask (B, N), times (B, N) -> pooled (B, D), sequence (B, N or latents, D)."""
        pooled = masked_mean(tokens, mask)
        sequence = tokens if mask is None else tokens.masked_fill(~mask[..., None], 0.0)
        if self.resampler is None or self.mix is None:
            return pooled, sequence
        latents = self.resampler(tokens, mask, times_s)
        return pooled + self.mix(latents.mean(dim=1)), sequence if self.keep_tokens else latents

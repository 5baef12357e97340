"""Fusion: one embedding of a sample from those of its modalities (optional; the contrastive losses need none).

    concat  W [a_1; ...; a_M]                                  a missing modality stands as zeros
    cross   the first present modality's vector + what it attends to in all modalities' sequences
    gated   sum_m g_m V_m a_m,  g = softmax over the present modalities of w_m . a_m

Guarantee: a missing modality's content, NaN included, does not reach the result; with one modality present, `gated`
is that modality's own map. Sources: gated after Arevalo et al., Gated Multimodal Units, 2017, with a softmax over any
number of modalities; cross-attention as in the Perceiver here, with one query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from components.shared.encoders.matryoshka import Encoded, nested
from components.shared.encoders.perceiver import CrossAttention


class Fusion(nn.Module):
    """Several modalities of width D to one.

    Args:
        kind: `concat`, `cross` or `gated`.
        modalities: Their names, in the order of importance (`cross` asks with the first one present).
        dim: D.
        heads: Attention heads of `cross`.
        widths: Matryoshka widths of the result.
    """

    def __init__(self, kind: str, modalities: Sequence[str], dim: int, *, heads: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.kind, self.modalities, self.widths = kind, tuple(modalities), tuple(widths)
        count = len(self.modalities)
        if kind == "concat":
            self.mix = nn.Linear(count * dim, dim)
        elif kind == "cross":
            self.attend = CrossAttention(dim, heads)
        elif kind == "gated":
            self.maps = nn.ModuleList(nn.Linear(dim, dim) for _ in self.modalities)
            self.gate = nn.Parameter(torch.randn(count, dim) * dim**-0.5)
        else:
            raise ValueError(f"fusion {kind!r} is unknown; allowed: concat, cross, gated.")

    def forward(self, encoded: Mapping[str, Encoded], present: Mapping[str, torch.Tensor] | None = None) -> Encoded:
        """Fuse.

        Args:
            encoded: modality -> Encoded of B samples; a modality may be absent as a whole.
            present: modality -> (B,) bool where it is missing in some samples.

        Returns:
            Encoded whose `sequence` (B, 1, D) is the fused vector.

        Raises:
            ValueError: a sample without any modality.
        """
        here, vectors = self._present(encoded, present or {})
        if not bool(here.any(1).all()):
            raise ValueError("a sample has none of the modalities, so there is nothing to fuse.")
        if self.kind == "concat":
            pooled = self.mix(vectors.flatten(1))
        elif self.kind == "gated":
            scores = (vectors * self.gate).sum(-1).masked_fill(~here, float("-inf"))
            mapped = torch.stack([one(vectors[:, index]) for index, one in enumerate(self.maps)], dim=1)
            pooled = (scores.softmax(1)[..., None] * mapped).sum(1)
        else:
            pooled = self._cross(encoded, here, vectors)
        return Encoded(pooled, pooled[:, None], nested(pooled, self.widths))

    def _present(
        self, encoded: Mapping[str, Encoded], present: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """((B, M) bool, pooled vectors (B, M, D) with zeros where missing)."""
        some = next(encoded[name].pooled for name in self.modalities if name in encoded)
        rows, vectors = [], []
        for name in self.modalities:
            given = torch.full((len(some),), name in encoded, device=some.device)
            if name in present:
                given = given & present[name].to(some.device)
            rows.append(given)
            vector = encoded[name].pooled if name in encoded else torch.zeros_like(some)
            vectors.append(vector.masked_fill(~given[:, None], 0.0))
        return torch.stack(rows, 1), torch.stack(vectors, 1)

    def _cross(self, encoded: Mapping[str, Encoded], here: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        first = here.int().argmax(1)
        query = vectors[torch.arange(len(vectors), device=vectors.device), first]
        media, masks = [], []
        for index, name in enumerate(self.modalities):
            if name not in encoded:
                continue
            real = here[:, index, None].expand(-1, encoded[name].sequence.shape[1])
            media.append(encoded[name].sequence.masked_fill(~real[..., None], 0.0))
            masks.append(real)
        return self.attend(torch.cat(media, 1), query[:, None], torch.cat(masks, 1))[:, 0]

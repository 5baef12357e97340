"""Matryoshka representations: one vector whose leading coordinates are embeddings of their own.

Source: Kusupati et al., Matryoshka Representation Learning, NeurIPS 2022. For every width w of a list that ends with
the full width: truncate to the first w coordinates, *then* normalise (the other order leaves vectors shorter than one).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Encoded:
    """What every encoder returns.

    Attributes:
        pooled: (B, D), not normalised.
        sequence: (B, L, D), not normalised; tokens that are padding are zero.
        mrl: width -> (B, width), each row of length one.
    """

    pooled: torch.Tensor
    sequence: torch.Tensor
    mrl: dict[int, torch.Tensor]

    def rows(self, at: slice | torch.Tensor) -> Encoded:
        """Some samples of the batch."""
        return Encoded(self.pooled[at], self.sequence[at], {width: some[at] for width, some in self.mrl.items()})


def nested(pooled: torch.Tensor, widths: Sequence[int]) -> dict[int, torch.Tensor]:
    """The L2-normalised prefixes of `pooled` (B, D), by width.

    Raises:
        ValueError: a width is larger than D.
    """
    if max(widths) > pooled.shape[-1]:
        raise ValueError(f"width {max(widths)} is larger than the embedding's {pooled.shape[-1]} coordinates.")
    pooled = pooled.to(torch.promote_types(pooled.dtype, torch.float32))  # products before it may be in bfloat16
    return {width: F.normalize(pooled[..., :width], dim=-1) for width in widths}

"""Embeddings cut from what made them, so that a loss over all of a step's can go back to each part by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from components.shared.encoders.matryoshka import Encoded

Cuts = Sequence[tuple[Sequence[Encoded], Sequence[Encoded]]]
"""For each part that made embeddings: these, and what was cut from them."""


def halves(rows: np.ndarray) -> list[np.ndarray]:
    """A batch's rows in two, as they go through a tower side by side; a single row alone."""
    return [part for part in np.array_split(rows, 2) if len(part)]


def detached(encoded: Encoded) -> Encoded:
    """The same numbers, cut from what made them, with gradients of their own."""
    cut = lambda rows: rows.detach().float().requires_grad_()
    return Encoded(cut(encoded.pooled), cut(encoded.sequence), {w: cut(rows) for w, rows in encoded.mrl.items()})


def back(made: Sequence[Encoded], cut: Sequence[Encoded]) -> tuple[torch.Tensor, float]:
    """A part whose gradient is what the cut embeddings' gradients give in what made them, in one pass."""
    pairs = []
    for one, leaf in zip(made, cut, strict=True):
        pairs += [(one.pooled, leaf.pooled), (one.sequence, leaf.sequence)]
        pairs += [(rows, leaf.mrl[width]) for width, rows in one.mrl.items()]
    loss = made[0].pooled.sum() * 0  # where nothing was contrasted with it
    return sum(((rows * leaf.grad).sum() for rows, leaf in pairs if leaf.grad is not None), loss), 0.0


def joined(parts: Sequence[Encoded]) -> dict[int, torch.Tensor]:
    """The embeddings of a batch's parts as those of the batch, by width."""
    return {width: torch.cat([part.mrl[width] for part in parts]) for width in parts[0].mrl}

"""Sizes of what a prefix policy has besides its language model. Imports no torch: a step's section holds them too."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from components.shared.runtime.config import Section


class RecursionShape(Section):
    """A tiny recursive network and how often it is applied."""

    width: int = Field(48, ge=8, le=4096)
    """Width of one slot of the grid (refinement), of one token (decoder)."""
    slots: int = Field(4, ge=1, le=256)
    """Slots of the grid on which a token's state is refined; unused by the decoder."""
    heads: int = Field(4, ge=1, le=64)
    """Attention heads."""
    layers: int = Field(2, ge=1, le=16)
    """Layers of the one network."""
    latent_steps: int = Field(3, ge=1, le=64)
    """Updates of z before each update of y."""
    cycles: int = Field(2, ge=1, le=16)
    """Rounds (updates of z, then of y) in a supervised step; only the last has a gradient."""
    supervised_steps: int = Field(3, ge=1, le=64)
    """Steps after each of which pretraining puts its loss on y; what is carried over has no gradient."""
    halting: bool = False
    """Learn to say that y is right already; a token that says so is refined no further, sampled or scored."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of 2 * heads {self.heads}")
        return self

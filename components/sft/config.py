"""The `sft` section: supervised fine-tuning of an adapter on trajectories, stage by stage."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from components.shared.learning.section import AdapterSection
from components.shared.runtime.config import Section


class CurriculumConfig(Section):
    """When training moves from simple to intermediate to complex trajectories, and when it moves back."""

    enabled: bool = True
    """Off: all stages from the first step on."""
    exit_scores: tuple[float, float] = (0.85, 0.85)
    """Smoothed validation score (share of right tokens) at which the simple and the intermediate stage end."""
    window: int = Field(3, ge=1, le=100)
    """Evaluations over which the score is averaged."""
    patience: int = Field(2, ge=1, le=100)
    """Evaluations without a better smoothed score after which a stage ends all the same."""
    max_evaluations: int = Field(2, ge=0, le=100_000)
    """Evaluations after which a stage ends even where it still improves; 0 for no limit."""
    cooldown: int = Field(3, ge=0, le=100)
    """Evaluations after a move in which nothing is decided."""
    tolerance: float = Field(0.02, ge=0, le=1)
    """How far the smoothed score may stand under the one before the move; more, and the move is undone."""
    min_delta: float = Field(0.002, ge=0, le=1)
    """What counts as a better score."""


MAX_RANK = 64


class EvaConfig(Section):
    """Ranks and first weights of the adapter from data (EVA: SVD of each layer's inputs, ranks to where they vary)."""

    enabled: bool = False
    """Off: every layer has the section's rank and random first weights."""
    rho: float = Field(2.0, ge=1, le=4)
    """A layer's rank is at most rank * rho; the sum over all layers stays what equal ranks would give."""
    tau: float = Field(0.99, ge=0, le=1)
    """A layer's directions stand once their cosine similarity between two batches is this high."""
    batches: int = Field(16, ge=2, le=1024)
    """Batches of `micro_batch` training trajectories looked at, again from the first until all layers stand."""
    learned_tokens_only: bool = True
    """Look at the tokens that the loss covers only, as PEFT advises; off: at every token."""


class SftConfig(AdapterSection):
    """LoRA on the language model."""

    rank: int = Field(16, ge=1, le=MAX_RANK)
    """Rank of the adapter (the mean over layers where `eva` chooses)."""
    eva: EvaConfig = EvaConfig()
    """Ranks chosen from data."""
    num_processes: int = Field(1, ge=0, le=64)
    """Processes on this node that train together, started by torchrun; 0 for one on each GPU that can be seen."""
    alpha: int = Field(32, ge=1, le=256)
    """Scale of the adapter's output is alpha / rank."""
    steps: int = Field(160, ge=1, le=1_000_000)
    """Optimiser steps at most."""
    batch: int = Field(32, ge=1, le=4096)
    """Effective batch: trajectories a step."""
    micro_batch: int = Field(32, ge=1, le=4096)
    """Trajectories in one backward pass; gradients of a step's micro batches are accumulated."""
    learning_rate: float = Field(1e-3, gt=0, le=1)
    """Peak; linear up over the first twentieth, cosine down to a tenth."""
    validate_every: int = Field(15, ge=1, le=1_000_000)
    """Steps between evaluations on validation trajectories."""
    num_validation: int = Field(96, ge=1, le=100_000)
    """Validation trajectories an evaluation reads."""
    num_asked: int = Field(300, ge=0, le=100_000)
    """Validation questions asked before and after, greedily."""
    early_stop: int = Field(0, ge=0, le=10_000)
    """Evaluations without a better loss after which training ends, in the last stage; 0 never."""
    checkpoint_every: int = Field(50, ge=1, le=1_000_000)
    """Steps between checkpoints."""
    checkpoint_s: float = Field(60.0, gt=0, le=86_400)
    """A checkpoint is also written when the last is this old."""
    max_trajectories: int = Field(6000, ge=1, le=10_000_000)
    """Training trajectories that are used."""
    memory_mb: int = Field(1024, ge=1, le=1_000_000)
    """Encoded trajectories kept in memory with their pictures (MiB, each process); others are read at each use."""
    curriculum: CurriculumConfig = CurriculumConfig()
    """The stages."""

    @model_validator(mode="after")
    def _rank_under_the_ceiling(self) -> Self:
        if self.eva.enabled and self.rank * self.eva.rho > MAX_RANK:
            raise ValueError(
                f"rank {self.rank} x eva.rho {self.eva.rho:g} lets a layer's rank pass the ceiling of {MAX_RANK}"
            )
        return self

"""Section `evaluation`."""

from __future__ import annotations

from pydantic import Field

from components.shared.operations.config import TWIN_OPERATIONS, OperationsConfig
from components.shared.runtime.config import Section, StepSection


class GateConfig(Section):
    """What a model must show before it may replace the one in use."""

    min_windows: int = Field(300, ge=1)
    """Fewer scored test windows than this: hold for lack of sample size."""
    min_sessions: int = Field(5, ge=2)
    """Fewer test sessions than this: hold, because an interval over sessions would mean nothing."""
    delta: float = Field(0.02, ge=0, le=1)
    """The paired difference to the champion may reach down to minus this."""
    require_comparison: bool = False
    """Hold where there is a champion whose answers about the same windows are not known."""


class EvaluationConfig(StepSection):
    """Judging base, SFT and RFT on people never seen."""

    max_windows: int = Field(0, ge=0)
    """Most test windows asked about, taken evenly; 0 asks about all."""
    max_closeups: int = Field(400, ge=0)
    """Most close-up questions asked, taken evenly."""
    num_samples: int = Field(2, ge=0, le=64)
    """Sampled answers a question for SFT and RFT (the service votes over samples); 0 leaves sampling out."""
    temperature: float = Field(1.0, gt=0, le=2)
    """Temperature of sampled answers."""
    max_turns: int = Field(3, ge=1, le=16)
    """Messages a policy may write for one answer."""
    max_new_tokens: int = Field(48, ge=4, le=4096)
    """Tokens a message may have."""
    batch_size: int = Field(64, ge=1, le=1024)
    """Questions answered at once."""
    num_latency: int = Field(12, ge=0, le=1000)
    """Questions answered one by one to measure latency."""
    num_resamples: int = Field(2000, ge=100, le=100_000)
    """Bootstrap draws of every interval."""
    level: float = Field(0.95, gt=0.5, lt=1)
    """Coverage of every interval."""
    timeline_hz: int = Field(10, ge=1, le=50)
    """Labels a second on which edit score and segmental F1 are computed; macro-F1 is always at 1 Hz."""
    num_failures: int = Field(8, ge=0, le=40)
    """Wrong answers shown with their frames."""
    num_strips: int = Field(8, ge=0, le=40)
    """Recordings shown as timelines."""
    operations: OperationsConfig = TWIN_OPERATIONS
    """Settings of the operations: the ones the trajectories were made with."""
    device: str = "cpu"
    """Where the policies run: cpu, cuda ..."""
    quantisation: str = Field("none", pattern="^(none|nf4|int8)$")
    """How the base is loaded."""
    gate: GateConfig = GateConfig()
    """The gate's thresholds."""

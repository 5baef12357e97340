"""The `rft` section: reinforcement with visual operations."""

from __future__ import annotations

from pydantic import Field

from components.shared.learning.section import AdapterSection
from components.shared.operations.config import TWIN_OPERATIONS, OperationsConfig
from components.shared.runtime.config import Section


class WeightConfig(Section):
    """A reward component's weight, linear over training."""

    start: float = Field(ge=0, le=10)
    """Weight of the first step."""
    end: float = Field(ge=0, le=10)
    """Weight of the last step."""


class CuriosityConfig(Section):
    """The curiosity reward's constants (Pixel Reasoner's by default)."""

    alpha: float = Field(0.5, ge=0, le=10)
    """Weight of the bonus max(target_rate - rate, 0)."""
    beta: float = Field(0.05, ge=0, le=10)
    """Charge for each call past `free_calls`."""
    target_rate: float = Field(0.3, ge=0, le=1)
    """No bonus once this share of a group uses operations."""
    free_calls: int = Field(1, ge=0, le=16)
    """Calls without charge."""
    novelty_weight: float = Field(0.0, ge=0, le=10)
    """Weight of the crops' distance to crops seen before, by the aligned encoder; 0 leaves the encoder unread."""
    novelty_memory: int = Field(1024, ge=1, le=1_000_000)
    """Embeddings of crops that are remembered."""


class RewardConfig(Section):
    """Weights of the reward's components; each is normalised in its group before it is weighted."""

    task: WeightConfig = WeightConfig(start=1.0, end=1.0)
    """Right answers."""
    curiosity: WeightConfig = WeightConfig(start=0.2, end=0.1)
    """Looking closer while the group rarely does."""
    coherence: WeightConfig = WeightConfig(start=0.05, end=0.05)
    """Operations that follow from each other."""
    format: WeightConfig = WeightConfig(start=0.05, end=0.05)
    """Strict messages."""
    adaptive: bool = False
    """Fade components that are nearly always at their best."""
    constants: CuriosityConfig = CuriosityConfig()
    """Constants of the curiosity reward."""


class RftConfig(AdapterSection):
    """Group relative policy optimisation over multi-turn episodes."""

    num_processes: int = Field(1, ge=0, le=64)
    """Processes on this node that train together, started by torchrun; 0 for one on each GPU that can be seen."""
    steps: int = Field(60, ge=0, le=100_000)
    """Updates at most; 0 leaves the policy as it is."""
    train_seconds: float = Field(100.0, gt=0, le=10_000_000)
    """Time for the updates, over all resumed attempts; the step after which it is used up is the last. `deterministic`
    does without the clock: `steps` alone bounds the training then."""
    num_groups: int = Field(16, ge=1, le=4096)
    """Questions a step."""
    group_size: int = Field(8, ge=2, le=256)
    """Rollouts a question."""
    closeup_share: float = Field(0.75, ge=0, le=1)
    """Share of close-up questions among a step's questions, where the data has any; the rest ask for the operation."""
    temperature: float = Field(1.0, gt=0, le=2)
    """Of the rollouts; the ratio of the loss is exact at 1 only."""
    max_turns: int = Field(3, ge=1, le=16)
    """Messages the policy may write in an episode."""
    max_new_tokens: int = Field(48, ge=1, le=4096)
    """Tokens a message may have; a longer one is cut and not learned from."""
    learning_rate: float = Field(2e-4, gt=0, le=1)
    """AdamW's, constant."""
    epochs: int = Field(2, ge=1, le=16)
    """Passes over each batch of rollouts, one optimiser step each."""
    clip_low: float = Field(0.2, gt=0, lt=1)
    """How far below 1 a token's probability ratio counts."""
    clip_high: float = Field(0.2, gt=0, le=10)
    """How far above 1 a token's probability ratio counts."""
    kl_weight: float = Field(0.02, ge=0, le=10)
    """Weight of the KL divergence to the policy that came in; 0 needs no reference."""
    micro_batch: int = Field(64, ge=1, le=4096)
    """Conversations in one backward pass; bounds memory, changes nothing else."""
    force_operations: bool = True
    """Give a group of close-up rollouts that never looked one rollout whose first words ask for a look."""
    rewards: RewardConfig = RewardConfig()
    """The reward."""
    operations: OperationsConfig = TWIN_OPERATIONS
    """Settings of the operations: the ones the trajectories were made with."""
    num_validation: int = Field(200, ge=1, le=100_000)
    """Validation questions a kind, asked before and after, greedily and sampled."""
    validation_samples: int = Field(4, ge=1, le=64)
    """Sampled answers to each of them; one greedy."""
    max_operation_drop: float = Field(0.02, ge=0, le=1)
    """The reinforced policy is not chosen where greedy operation accuracy falls by more."""
    checkpoint_every: int = Field(10, ge=1, le=100_000)
    """Updates between checkpoints."""

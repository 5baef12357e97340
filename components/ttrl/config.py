"""The `ttrl` section: how the service answers, when it may learn, and what a request may cost.

Role: the only place where thresholds live. Every number of the gate, the update and the limits can be set here; those
named in `components.ttrl.service.TUNABLE` can also be changed while the service runs (audited).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.shared.operations.config import TWIN_OPERATIONS, OperationsConfig
from components.shared.runtime.config import StepSection


class TtrlConfig(StepSection):
    """Configuration of the test-time reinforcement learning service."""

    # --- deployment
    deploy: bool = True
    """Start (or replace) the service at the end of the pipeline."""
    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback needs `keys_file`."""
    port: int = Field(8400, ge=0, le=65535)
    """Port to listen on; 0 takes a free one, which the service record names."""
    state_dir: str = ""
    """Where experiences, adapters and records live; empty: $PIXELIS_STATE_DIR, else ~/.local/state/pixelis/ttrl."""
    keys_file: str = ""
    """JSON file of hashed API keys and roles; empty: no keys, loopback only."""
    ready_timeout_s: float = Field(300.0, gt=0, le=3600)
    """How long a deployment waits for the service to be ready before it is stopped and the step fails."""

    # --- answering
    rollouts: int = Field(8, ge=1, le=64)
    """Answers sampled per request; they vote."""
    frame_samplings: int = Field(2, ge=1, le=8)
    """Different choices of frames among a request's rollouts."""
    temperature: float = Field(0.7, gt=0, le=2)
    """Sampling temperature of the votes."""
    max_turns: int = Field(3, ge=1, le=16)
    """Turns of an episode, the answer's included."""
    max_new_tokens: int = Field(48, ge=4, le=1024)
    """Token limit of one turn."""
    operations: OperationsConfig = TWIN_OPERATIONS
    """Settings of the operations: the ones the policy was trained with."""
    concurrency: int = Field(4, ge=1, le=256)
    """Requests worked on at once; four times as many may be on their way or wait, further ones get 429."""
    batch_requests: int = Field(4, ge=1, le=64)
    """Requests answered in one forward batch at most."""
    batch_wait_ms: float = Field(5.0, ge=0, le=1000)
    """How long a request waits for company in its batch."""
    device: str = "auto"
    """Where the policy runs: `cpu`, `cuda`, or `auto` for a GPU where there is one."""
    quantisation: Literal["none", "nf4", "int8"] = "none"
    """Quantisation of the base (bitsandbytes)."""
    threads: int = Field(0, ge=0, le=256)
    """Torch threads of the serving process; 0 leaves torch's own choice."""

    # --- long recordings
    analyze_hop_s: float = Field(2.5, gt=0, le=60)
    """Step between the windows of POST /analyze."""
    analyze_rollouts: int = Field(4, ge=1, le=64)
    """Rollouts per window of POST /analyze."""

    # --- retrieval (confidence only)
    neighbours: int = Field(5, ge=0, le=100)
    """Stored experiences looked up per request; they adjust confidence and never vote."""
    neighbour_similarity: float = Field(0.9, ge=-1, le=1)
    """Least similarity of a neighbour that counts."""
    neighbour_weight: float = Field(0.2, ge=0, le=1)
    """Largest part of the confidence that neighbours can make up."""

    # --- the gate
    label_share: float = Field(0.5, ge=0, le=1)
    """Least vote share of a pseudo-label."""
    label_margin: float = Field(0.15, ge=0, le=1)
    """The pseudo-label's share must lead the second by more than this."""
    negative_share: float = Field(0.15, ge=0, le=1)
    """Answers with a smaller share may be negative examples."""
    quorum: float = Field(0.5, ge=0, le=1)
    """Least part of the rollouts that must have voted (an abstention is no vote)."""
    cold_start: int = Field(16, ge=0)
    """Pseudo-labelled experiences collected before anything is learned."""
    ramp_updates: int = Field(4, ge=0)
    """Updates over which the learning rate rises to its full value after the cold start."""
    max_source_share: float = Field(0.5, gt=0, le=1)
    """Largest part of an update's batch that may come from one source (API key)."""

    # --- updates
    learn: bool = True
    """Whether votes lead to adapter updates at all."""
    update_every: int = Field(16, ge=1)
    """Pseudo-labelled experiences between two updates."""
    update_batch: int = Field(8, ge=1, le=256)
    """Experiences of one update at most."""
    min_update_batch: int = Field(4, ge=1, le=256)
    """Fewer than these: the update is skipped and recorded as skipped."""
    group_size: int = Field(8, ge=2, le=64)
    """Fresh rollouts per experience in an update."""
    update_steps: int = Field(2, ge=1, le=100)
    """Optimiser steps of one update."""
    micro_batch: int = Field(16, ge=1, le=4096)
    """Rollouts in one backward pass of an update; bounds memory, changes nothing else."""
    learning_rate: float = Field(1e-4, gt=0, le=1)
    """Learning rate at confidence 1, after the ramp."""
    kl_weight: float = Field(0.02, ge=0, le=10)
    """Weight of the divergence from the promoted (anchor) adapter."""
    clip_ratio: float = Field(0.2, gt=0, lt=1)
    """Clip range of the probability ratio."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradient norm limit."""
    ema_decay: float = Field(0.5, ge=0, lt=1)
    """Part of the old weights kept at each step of the average that is published; 0 publishes the last step."""
    update_queue: int = Field(2, ge=1, le=64)
    """Update tasks that may wait; further ones are dropped and counted."""
    update_timeout_s: float = Field(600.0, gt=0)
    """An update taking longer is given up and its worker restarted."""
    worker_threads: int = Field(1, ge=1, le=256)
    """Torch threads of the update worker."""

    # --- the guard
    canary_clips: int = Field(64, ge=1)
    """Labelled canary questions asked before and after each update."""
    canary_tolerance: float = Field(0.0, ge=0, le=1)
    """How far the canary accuracy may fall, against the adapter in use and against the promoted one."""
    freeze_after: int = Field(3, ge=1)
    """Rejected updates in a row after which learning is paused until an operator resumes it."""
    keep_adapters: int = Field(8, ge=2)
    """Published adapters kept for rollback."""

    # --- limits of a request
    max_body_bytes: int = Field(64 * 2**20, ge=1024)
    """Largest body of a request, cut when it is passed; all uploads together may hold `concurrency` times as much."""
    upload_timeout_s: float = Field(60.0, gt=0, le=3600)
    """Longest time from a request's head to its last byte; then 408."""
    max_question_chars: int = Field(500, ge=1, le=100_000)
    """Longest question."""
    max_pixels: int = Field(4_000_000, ge=4096)
    """Most pixels of one frame or image."""
    max_source_side: int = Field(1024, ge=112, le=4096)
    """Longest side of the frames that operations crop from and that are stored; larger sources are shrunk."""
    max_duration_s: float = Field(60.0, gt=0)
    """Longest video of POST /predict."""
    max_analyze_s: float = Field(600.0, gt=0)
    """Longest video of POST /analyze."""
    max_images: int = Field(64, ge=1)
    """Most images of one request."""
    decode_timeout_s: float = Field(20.0, gt=0)
    """Longest decoding of one request."""
    decode_memory_bytes: int = Field(2 * 2**30, ge=64 * 2**20)
    """Address space of the decoding process."""
    request_timeout_s: float = Field(60.0, gt=0)
    """Longest time from a request's last byte to its answer; then 503."""
    requests_per_minute: int = Field(0, ge=0)
    """Requests a minute per key; 0 sets no limit."""

    # --- the buffer
    capacity: int = Field(100_000, ge=1)
    """Most experiences kept."""
    retention_days: float = Field(90.0, gt=0)
    """Age at which an experience is removed."""

"""Section `alignment`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.shared.encoders.config import EncoderConfig
from components.shared.runtime.config import StepSection


class AlignmentConfig(StepSection):
    """Contrastive pretraining of the encoders that retrieval and novelty use."""

    encoder: EncoderConfig = EncoderConfig()
    """Towers, pooling and Matryoshka widths."""
    captions: Literal["operation", "sequence", "timed"] = "timed"
    """What a clip is called: its operation's phrase; the phrases of all operations in it, in order; or these with how
    long each lasts (`briefly` under a second, `for a while` over two)."""
    max_clips: int = Field(2500, ge=2)
    """Most training clips read (their policy frames are held in memory)."""
    frame_steps: int = Field(120, ge=0, le=200_000)
    """Steps that tune the image tower on single frames; 0 leaves it as it is. Skipped where the tower is frozen."""
    frames_per_step: int = Field(128, ge=2, le=4096)
    """Frames in one such step."""
    clip_steps: int = Field(260, ge=0, le=200_000)
    """Steps that then train pooling, projectors and text on whole clips, over cached features of frames."""
    clips_per_step: int = Field(64, ge=2, le=4096)
    """Clips in one such step."""
    sound_steps: int = Field(600, ge=0, le=200_000)
    """Steps that last train what hears, towards pictures and texts, which stand still. Skipped without sound."""
    sounds_per_step: int = Field(32, ge=2, le=4096)
    """Clips in one such step; each has as many moments of sound as frames."""
    learning_rate: float = Field(1e-3, gt=0, le=1)
    """AdamW's peak learning rate; warm-up over a tenth of each stage, then cosine to zero."""
    sound_learning_rate: float = Field(4e-3, gt=0, le=1)
    """The same for what hears."""
    weight_decay: float = Field(0.05, ge=0, le=1)
    """AdamW's weight decay."""
    w_clip: float = Field(1.0, ge=0)
    """Weight of the full-width loss."""
    w_mrl: float = Field(0.5, ge=0)
    """Weight of the sum over Matryoshka widths."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """In what matrices are multiplied; `auto`: bfloat16 on a processor that has instructions for it (two to three times
    as fast), float32 elsewhere and on GPUs. Weights and losses are float32 either way."""
    w_phrases: float = Field(6.0, ge=0)
    """In the sounds' loss, weight of moments against phrases; each of whole sounds' two pairs has weight 1."""
    w_pictures: float = Field(30.0, ge=0)
    """The same of moments against the pictures seen then."""
    checkpoint_steps: int = Field(50, ge=1)
    """Steps between checkpoints in the work folder."""
    num_processes: int = Field(1, ge=0, le=64)
    """Processes on this node that train together, started by torchrun; 0 for one on each GPU that can be seen.
    Each takes its part of a step's clips; negatives are gathered from all."""
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    """Where the model is trained: cpu, cuda ..."""

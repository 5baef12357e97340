"""What the sections of the steps that train a policy's adapter share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.shared.runtime.config import StepSection


class AdapterSection(StepSection):
    """Where the policy runs, how its frozen base is kept, and how far one update may go."""

    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    """Where training runs; in a group of GPU processes each takes its own."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Of the frozen base; none takes what the device does well."""
    quantisation: Literal["none", "nf4", "int8"] = "none"
    """Of the frozen base (bitsandbytes)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    max_grad_norm: float = Field(1.0, gt=0, le=1000)
    """Gradients are scaled down to this norm."""

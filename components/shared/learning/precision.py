"""In which precision a training on a CPU multiplies matrices.

bfloat16 products are two to three times as fast as float32 ones where the processor has instructions for them, and
several times slower where it has not. Weights, optimiser state, norms and losses stay float32 (torch's autocast).
"""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16."""
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def autocast(precision: Precision, device: str = "cpu") -> torch.autocast:
    """A context in which matrices are multiplied in the wanted precision; `auto` is float32 off the CPU.

    A context belongs to the thread that enters it.
    """
    fast = precision == "bfloat16" or (precision == "auto" and device == "cpu" and multiplies_bfloat16())
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=fast)

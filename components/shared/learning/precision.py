"""In which precision a training on a CPU multiplies by weights.

bfloat16 products are two to three times as fast as float32 ones where the processor has instructions for them, and
several times slower where it has not. Only linear layers multiply so: torch's autocast would have attention in bfloat16
as well, which is ten times slower there on small images and short conversations (torch 2.13), and everything between.
Weights, optimiser state, attention, norms and losses stay float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Precision = Literal["auto", "float32", "bfloat16"]


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16."""
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def products_in(precision: Precision, device: str = "cpu") -> AbstractContextManager[Any]:
    """A context in which linear layers multiply in the wanted precision; `auto` is float32 off the CPU.

    A context belongs to the thread that enters it.
    """
    fast = precision == "bfloat16" or (precision == "auto" and device == "cpu" and multiplies_bfloat16())
    return _Bfloat16Linear() if fast else contextlib.nullcontext()


class _Bfloat16Linear(TorchFunctionMode):
    """float32 linear layers multiply in bfloat16 and give float32, in their gradients too."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return (_linear if func is functional.linear else func)(*args, **(kwargs or {}))


def _linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if input.dtype != torch.float32:
        return functional.linear(input, weight, bias)
    product = functional.linear(input.bfloat16(), weight.bfloat16()).float()
    return product if bias is None else product + bias

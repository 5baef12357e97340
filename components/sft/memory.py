"""How much memory fine-tuning will need, told before it starts.

What is kept for the backward pass depends on the model's kind, its number types, the adapter and the attention kernel.
So it is not guessed from sizes: a few tokens go forward once, what autograd keeps of them is counted, and that is
scaled to a whole micro batch; on the way back two gradients of the widest states live beside it. Weights, adapter (its
gradient and AdamW's two moments with it: 16 bytes a parameter) and cached features are counted as they are.
Not in it: attention kernels that keep a square of the length, libraries' workspaces, fragmentation. It was 1.00 to 1.11
of the allocator's peak for ten policies on the CPU (`benchmarks/sft_memory.py`), .74 to .87 on a GPU at the size of a
real model (`benchmarks/gpu_policy.py`): leave a third there. A step's report has both for the real process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
from torch.nn import functional

from components.shared.policy.layout import Encoded

if TYPE_CHECKING:
    from components.shared.policy.decoder import DecoderPolicy

TRIED = 48
"""Tokens that are tried at most."""
LOGITS_COPIES = 3
"""float32 copies of a micro batch's logits that autograd does not keep: the logits and two gradients of them."""


def estimate(policy: DecoderPolicy, rows: Sequence[Encoded], *, gradient_checkpointing: bool) -> dict[str, int]:
    """Bytes by part, of a policy with its adapter and a micro batch of `rows`.

    Args:
        policy: As it will be trained.
        rows: Encoded conversations.
        gradient_checkpointing: Whether it is switched on for the policy.
    """
    adapter = sum(parameter.numel() for parameter in policy.trainable_parameters())
    padded = len(rows) * max(row.ids.size for row in rows)
    learned = int(sum(row.learn.sum() for row in rows))
    token, answer = kept_bytes(policy, rows[0])
    if gradient_checkpointing:  # what one layer keeps is there again while its part of the backward pass runs
        policy.set_gradient_checkpointing(False)
        token += kept_bytes(policy, rows[0])[0] / policy.text_config.num_hidden_layers
        policy.set_gradient_checkpointing(True)
    return {
        "weights": sum(stored_bytes(p) for name, p in policy.model.named_parameters() if ".lora_" not in name),
        "adapter": 16 * adapter,
        "features": policy.features.size_bytes,
        "activations": int(padded * token),
        "gradients": 2 * 4 * padded * policy.text_config.intermediate_size,
        "logits": int(learned * (answer + 4 * LOGITS_COPIES * policy.text_config.vocab_size)),
    }


def still_to_come(parts: dict[str, int]) -> int:
    """Bytes of an estimate that are not allocated when training begins."""
    return parts["adapter"] * 12 // 16 + parts["activations"] + parts["gradients"] + parts["logits"]


def kept_bytes(policy: DecoderPolicy, row: Encoded) -> tuple[float, float]:
    """What autograd keeps: (bytes a token of the decoder's states, bytes a learned token of head and loss)."""
    tried = [excerpt(row, TRIED), excerpt(row, TRIED - 1)]  # of two lengths, so that there is padding as in a batch
    states = _kept(policy, lambda: policy.hidden_states(tried))

    def loss() -> torch.Tensor:
        logits, _, targets = policy.forward_rows(tried)
        return functional.cross_entropy(logits, targets, reduction="sum")

    tokens, learned = len(tried) * tried[0].ids.size, sum(int(row.learn.sum()) for row in tried)
    return states / tokens, max(0.0, _kept(policy, loss) - states) / max(1, learned)


def _kept(policy: DecoderPolicy, run: Callable[[], torch.Tensor]) -> int:
    """Bytes of the distinct tensors, weights apart, that autograd keeps of `run`."""
    tensors: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        tensors.append(tensor)
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    own = {parameter.untyped_storage().data_ptr() for parameter in policy.model.parameters()}
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    del result
    return sum(size for place, size in sizes.items() if place not in own)


def excerpt(row: Encoded, length: int) -> Encoded:
    """The last tokens of a conversation, its images left out."""
    text = np.flatnonzero(~row.is_image)[-length:]
    positions = np.tile(np.arange(text.size), (3, 1))
    return Encoded(row.ids[text], np.zeros(text.size, bool), row.learn[text], positions, (), ())


def stored_bytes(parameter: Any) -> int:
    """Bytes of a parameter as it is stored, the scales of a 4-bit one included."""
    scales = getattr(getattr(parameter, "quant_state", None), "absmax", None)
    return parameter.numel() * parameter.element_size() + (scales.nbytes if scales is not None else 0)


def resident_bytes() -> int:
    """What this process holds now."""
    return int(psutil.Process().memory_info().rss)

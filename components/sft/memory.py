"""How much memory a fine-tuning step will need, estimated before it starts.

Arithmetic only: weights as stored, adapter with gradient and AdamW's two moments (16 bytes a parameter), activations of
one micro batch as kept for the backward pass, logits of the learned tokens. An estimate: libraries' workspaces,
fragmentation and the process itself are not in it, and the report shows the measured peak beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

BITS = {"none": 0, "nf4": 4.5, "int8": 8.0}
"""Bits a quantised weight takes, its share of scales included; 0 where weights stay as they are."""


@dataclass(frozen=True)
class ModelSize:
    """What the estimate needs to know about a model."""

    num_parameters: int
    num_quantised: int
    num_adapter: int
    bytes_each: int
    hidden: int
    intermediate: int
    layers: int
    vocabulary: int


def training_bytes(
    size: ModelSize, *, tokens: int, learned: int, quantisation: str, gradient_checkpointing: bool
) -> dict[str, int]:
    """Bytes by part.

    Args:
        size: The model.
        tokens: Tokens of a micro batch, padding included.
        learned: Tokens whose logits are computed.
        quantisation: Scheme of the base's linear layers.
        gradient_checkpointing: Keep only each layer's input.
    """
    plain = size.num_parameters - size.num_quantised
    weights = plain * size.bytes_each + int(size.num_quantised * BITS[quantisation] / 8)
    layer = (10 * size.hidden + 4 * size.intermediate) * size.bytes_each
    kept = size.hidden * size.bytes_each * size.layers + layer if gradient_checkpointing else layer * size.layers
    return {
        "weights": weights,
        "adapter": 16 * size.num_adapter,
        "activations": tokens * kept,
        "logits": 3 * 4 * learned * size.vocabulary,
    }

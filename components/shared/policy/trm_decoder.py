"""A decoder that is only a tiny recursive network (experiment): embeddings in, recursion, the same embeddings out.

Role: stands where a prefix policy's Qwen language model stands, so that training, generation and adapters are the same.
One small network (RoPE, RMSNorm, gated units) is applied `supervised_steps * cycles * (latent_steps + 1)` times, with
causal attention over the tokens; each application of each layer has keys and values of its own in the cache, so that
generating token by token gives what one pass over the whole text gives (tested).
Not guaranteed: that it is as good as a Qwen of the same cost; see the decision record for what was measured.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from components.shared.policy.shapes import RecursionShape
from components.shared.policy.trm import Attending, Layer, rotation, supervised_step
from components.shared.runtime.artifacts import read_json, write_json
from components.shared.runtime.errors import ArtifactError

MODEL_TYPE, CONFIG, WEIGHTS = "pixelis_trm", "config.json", "model.safetensors"


@dataclass(frozen=True)
class DecoderSize:
    """What others ask of a text model's configuration."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    """Applications of a layer that are kept for the backward pass."""


class TrmDecoder(nn.Module):
    """The text model: embeddings (B, L, D) to states (B, L, D)."""

    y_start: torch.Tensor
    z_start: torch.Tensor

    def __init__(self, vocabulary: int, shape: RecursionShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(vocabulary, shape.width)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        self.layers = nn.ModuleList(Layer(shape.width, shape.heads) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, eps=1e-5)
        self.register_buffer("y_start", torch.randn(shape.width))
        self.register_buffer("z_start", torch.randn(shape.width))
        self.recompute = False

    def forward(
        self,
        *,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | dict[str, torch.Tensor] | None,
        position_ids: torch.Tensor,
        past_key_values: Any = None,
        use_cache: bool = False,
        output_hidden_states: bool = False,
    ) -> SimpleNamespace:
        """As transformers' text models; `hidden_states` holds the input, then y after each supervised step."""
        cache = past_key_values if use_cache else None
        before = cache.get_seq_length() if cache is not None else 0
        turn = rotation(position_ids, self.shape.width // self.shape.heads)
        if attention_mask is None and not before:  # no mask to keep for the backward pass
            how = Attending(turn, None, cache, causal=True)
        else:
            seen = visible(attention_mask, inputs_embeds.shape[1], before, inputs_embeds.device)
            how = Attending(turn, seen, cache)

        def network(states: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                states = layer(states, how)
            return states

        x = self.norm(inputs_embeds)
        y, z = (start.to(x).expand_as(x) for start in (self.y_start, self.z_start))
        answers, training = [inputs_embeds], torch.is_grad_enabled()
        for left in reversed(range(self.shape.supervised_steps)):
            # Steps whose answer nobody asked for need no gradient: none goes from a step to the one before.
            with torch.set_grad_enabled(training and (output_hidden_states or not left)):
                if self.recompute and torch.is_grad_enabled():
                    y, z = checkpoint(supervised_step, network, x, y, z, self.shape, use_reentrant=False)
                else:
                    y, z = supervised_step(network, x, y, z, self.shape)
            answers.append(y)
            y, z = y.detach(), z.detach()
        states = tuple(answers) if output_hidden_states else None
        return SimpleNamespace(last_hidden_state=self.norm(answers[-1]), hidden_states=states)


def visible(
    mask: torch.Tensor | dict[str, torch.Tensor] | None, length: int, before: int, device: torch.device
) -> torch.Tensor:
    """bool (1 or B, 1, length, before + length): earlier tokens that are no padding, and always the token itself."""
    if isinstance(mask, dict):
        return mask["full_attention"]
    row = torch.arange(before, before + length, device=device)[:, None]
    column = torch.arange(before + length, device=device)[None]
    causal = (column <= row)[None, None]
    if mask is None:
        return causal
    return (causal & mask.bool()[:, None, None, :]) | (column == row)


class CausalTrm(nn.Module):
    """The decoder with its head, which is its embedding: what a causal language model of transformers looks like."""

    def __init__(self, vocabulary: int, shape: RecursionShape) -> None:
        super().__init__()
        self.model = TrmDecoder(vocabulary, shape)
        rows = shape.supervised_steps * (shape.latent_steps + 1) * shape.layers
        self.config = DecoderSize(vocabulary, shape.width, 2 * shape.width, rows)

    def lm_head(self, states: torch.Tensor) -> torch.Tensor:
        """Logits (…, V)."""
        return functional.linear(states, self.model.embed_tokens.weight)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Recompute each supervised step in the backward pass."""
        self.model.recompute = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep all activations."""
        self.model.recompute = False

    def save_pretrained(self, directory: Path) -> None:
        """Write config.json and model.safetensors."""
        shape = self.model.shape.model_dump(mode="json")
        write_json(directory / CONFIG, {"model_type": MODEL_TYPE, "shape": shape} | asdict(self.config))
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, directory / WEIGHTS)


def load_causal_trm(base: Path) -> CausalTrm:
    """Read what `save_pretrained` wrote.

    Raises:
        ArtifactError: another kind of model, or weights that do not fit.
    """
    card = read_json(base / CONFIG)
    if card.get("model_type") != MODEL_TYPE:
        raise ArtifactError(f"{base / CONFIG} describes {card.get('model_type')!r}, {MODEL_TYPE} is needed.")
    model = CausalTrm(card["vocab_size"], RecursionShape.model_validate(card["shape"]))
    try:
        model.load_state_dict(load_file(base / WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(
            f"{base / WEIGHTS} cannot be loaded ({str(error).splitlines()[0]}).", remedy="Run base_model again."
        ) from error
    return model

"""The prefix policy: aligned image tokens, projected, stand before the question in a causal language model.

    image -> frozen aligned encoder -> vision_proj -> input embeddings, each after its timestamp
          -> Qwen causal language model (or the TRM decoder) -> [refiner] -> logits

Role: the second and third kind of policy. `prefix` is a plain Qwen language model, `prefix_trm` refines its last hidden
states by recursion before the logits, `trm_decoder` (experiment) has a recursive network in Qwen's place.
Guarantees: those of `DecoderPolicy`; refinement sees one token at a time and so stays causal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.shared.policy.base_folder import number_type
from components.shared.policy.decoder import DecoderPolicy
from components.shared.policy.description import PolicyDescription
from components.shared.policy.layout import Encoded
from components.shared.policy.prefix_model import PrefixModel, Tiling, load_prefix_model
from components.shared.policy.tokenizer import TextCodec
from components.shared.policy.trm_decoder import CausalTrm, load_causal_trm
from components.shared.runtime.errors import ConfigError


class PrefixPolicy(DecoderPolicy):
    """A causal language model behind aligned image tokens.

    Args:
        model: All weights; frozen here.
        codec: The tokenizer.
        description: Content of policy.json.
        base_digest: Digest of the base's files.
    """

    def __init__(self, model: PrefixModel, codec: TextCodec, description: PolicyDescription, base_digest: str) -> None:
        side = model.vision.image_size
        self.tiling = Tiling(
            side, 1, 1, description.min_pixels, description.max_pixels, tokens=model.vision.tokens_a_frame
        )
        super().__init__(model, codec, description, base_digest, self.tiling)

    @property
    def language(self) -> Any:
        """The text model (`Qwen2Model` or `TrmDecoder`)."""
        return self.model.language_model.model

    @property
    def text_config(self) -> Any:
        return self.model.language_model.config

    @property
    def checkpointed(self) -> Any:
        return self.model.language_model

    @property
    def is_recursive(self) -> bool:
        """Whether the decoder itself is the recursive network."""
        return isinstance(self.model.language_model, CausalTrm)

    @property
    def halfway(self) -> int:
        if self.is_recursive:
            return max(1, self.language.shape.supervised_steps // 2)
        return super().halfway

    def encode_images(self, images: np.ndarray) -> torch.Tensor:
        return self.model.see(images, self.tiling)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        return self.model.project(features)

    def place(self, positions: torch.Tensor) -> torch.Tensor:
        return positions[2]  # tiles lie in one row, so the width axis counts every token

    def head(self, states: torch.Tensor) -> torch.Tensor:
        refined = states if self.model.refiner is None else self.model.refiner(states)
        return self.model.language_model.lm_head(refined)

    def supervised(self, states: torch.Tensor) -> list[torch.Tensor]:
        if self.model.refiner is None:
            return super().supervised(states)
        lm_head = self.model.language_model.lm_head
        return [lm_head(refined).float() + self.allowed for refined, _ in self.model.refiner.steps(states)]

    def pretraining_states(self, rows: Sequence[Encoded]) -> tuple[list[torch.Tensor], torch.Tensor]:
        if not self.is_recursive:
            return super().pretraining_states(rows)
        embeds, mask, positions = self.embed(rows, left=False)
        output = self.run(embeds, None if bool(mask.all()) else mask, positions, every_layer=True)
        after = [self.language.norm(states) for states in output.hidden_states[1:]]
        return after, after[self.halfway - 1]

    def new_cache(self) -> Any:
        if not self.is_recursive:
            return super().new_cache()
        from transformers import DynamicCache

        return DynamicCache()  # grows by a layer for each application of the network

    def train_language(self) -> None:
        self.model.requires_grad_(True)
        self.model.vision.requires_grad_(False)

    def calibrate(self, images: Sequence[np.ndarray]) -> None:
        """Centre and scale the aligned tokens by what they are on these images."""
        self.model.calibrate(torch.cat(self.features.encode(images)))

    def save_model(self, directory: Path) -> None:
        self.model.save(directory)


def load_prefix(
    base: Path, description: PolicyDescription, digest: str, *, device: str, dtype: str | None, quantisation: str
) -> PrefixPolicy:
    """The prefix policy of a base folder; see `load_policy`."""
    number = number_type(dtype, device)
    if description.kind == "trm_decoder":
        if quantisation != "none":
            raise ConfigError(
                f"quantisation {quantisation} is for Qwen language models; {base.name} is a TRM decoder.",
                remedy="Set quantisation to none.",
            )
        language: Any = load_causal_trm(base)
    else:
        language = load_language(base, number, device, quantisation)
    model = load_prefix_model(base, language)
    parts = [part for name, part in model.named_children() if name != "language_model" or quantisation == "none"]
    for part in parts:
        part.to(torch.device(device), number)
    model.centre, model.spread = model.centre.to(device), model.spread.to(device)
    policy = PrefixPolicy(model, TextCodec.load(base), description, digest)
    if quantisation != "none":
        from components.shared.policy.quantisation import quantised_modules

        policy.quantised = tuple(quantised_modules(model))
    return policy


def load_language(base: Path, number: torch.dtype, device: str, quantisation: str) -> Any:
    """The causal language model of a base folder (Qwen2, Qwen3 …)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from components.shared.policy.quantisation import loading_options

    kind: Any = AutoModelForCausalLM._model_mapping[type(AutoConfig.from_pretrained(base, local_files_only=True))]
    return kind.from_pretrained(
        base,
        local_files_only=True,
        use_safetensors=True,
        dtype=number,
        attn_implementation="sdpa",
        **loading_options(base, kind, quantisation, number, device),
    )

"""What all policies share: a causal decoder over text and image tokens, with an optional LoRA adapter.

Role: layout, embedding, generation, scoring and adapters, once. A kind of policy says only how an image becomes tokens
(`encode_images`, `project`), which text model runs (`language`), in which positions, and how its states become logits.
Guarantees: what sees images is frozen and its features are cached; the distribution is over ordinary tokens and the end
of a turn only (control tokens have probability 0 in sampling and in scoring alike, so a sampled `<|image_pad|>` cannot
occur and ratios are exact); an adapter is swapped whole or not at all.
Not guaranteed: thread safety; equal results across batch sizes beyond floating-point rounding.
"""

from __future__ import annotations

import contextlib
import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.shared.policy import adapters
from components.shared.policy.base_folder import base_digest
from components.shared.policy.description import PolicyDescription, write_description
from components.shared.policy.generation import continue_rows
from components.shared.policy.images import Patching
from components.shared.policy.interface import Conversation, Forward, Generation, Policy
from components.shared.policy.layout import Encoded, Layout
from components.shared.policy.packing import pack, packed_logprobs
from components.shared.policy.tokenizer import TextCodec
from components.shared.policy.vision import FeatureCache
from components.shared.runtime.errors import ArtifactError


class DecoderPolicy(Policy):
    """A decoder with an optional LoRA adapter.

    Args:
        model: All weights of the policy; frozen here.
        codec: The tokenizer.
        description: Content of policy.json.
        base_digest: Digest of the base's files.
        patching: How many tokens an image becomes.
    """

    def __init__(
        self, model: Any, codec: TextCodec, description: PolicyDescription, base_digest: str, patching: Patching
    ) -> None:
        self.model, self.codec, self.description, self.base_digest = model, codec, description, base_digest
        self.patching = patching
        self.quantised: tuple[str, ...] = ()
        self.layout = Layout(codec, patching, image_markers=description.image_markers, system=description.system)
        self.features = FeatureCache(self.encode_images, **cache_size(model))
        self._peft: Any = None
        model.eval()
        model.requires_grad_(False)

    # -- what a kind of policy says ----------------------------------------------------------------------------------

    @property
    @abstractmethod
    def language(self) -> Any:
        """The text model: `embed_tokens`, `norm`, and a call as transformers' text models have it."""

    @property
    @abstractmethod
    def text_config(self) -> Any:
        """The text model's transformers configuration."""

    @abstractmethod
    def encode_images(self, images: np.ndarray) -> torch.Tensor:
        """Frozen features of equal-sized images: uint8 (N, height, width, 3) -> (N, tokens, width)."""

    @abstractmethod
    def save_model(self, directory: Path) -> None:
        """Write weights (safetensors) and their configuration."""

    @abstractmethod
    def train_language(self) -> None:
        """Full-parameter training of everything but what sees images."""

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Image features (N, width) as the decoder's input embeddings (N, D)."""
        return features

    def place(self, positions: torch.Tensor) -> torch.Tensor:
        """Positions (3, B, L) as the text model takes them."""
        return positions

    def head(self, states: torch.Tensor) -> torch.Tensor:
        """Logits (…, V) of last hidden states (…, D)."""
        return self.model.lm_head(states)

    def supervised(self, states: torch.Tensor) -> list[torch.Tensor]:
        """Every logits (…, V), float32, that pretraining puts its loss on; those that answer come last."""
        return [self.logits(states)]

    def new_cache(self) -> Any:
        """An empty key-value cache."""
        from transformers import DynamicCache

        return DynamicCache(config=self.text_config)

    @property
    def halfway(self) -> int:
        """The layer half way up, for losses that want the layers above to read what the states there say."""
        return self.text_config.num_hidden_layers // 2

    @property
    def checkpointed(self) -> Any:
        """The transformers model whose activations gradient checkpointing recomputes."""
        return self.model

    # -- running -----------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the language model is."""
        return self.language.embed_tokens.weight.device

    @cached_property
    def allowed(self) -> torch.Tensor:
        """float32 (V,): 0 where a token may be produced, -inf at control tokens and unused rows."""
        mask = torch.full((self.text_config.vocab_size,), float("-inf"))
        ordinary = [number for number in range(self.codec.size) if number not in self.codec.control]
        mask[ordinary] = 0.0
        mask[self.codec.turn_end] = 0.0
        return mask.to(self.device)

    @property
    def digest(self) -> str:
        own = hashlib.sha256(self.base_digest.encode())
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad or ".lora_" in name}
        own.update(adapters.tensors_digest(trained).encode())
        return own.hexdigest()

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits (…, V), float32, of last hidden states; -inf at tokens that may not be produced."""
        return self.head(states).float() + self.allowed

    def embed(self, rows: Sequence[Encoded], *, left: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(embeddings (B, L, D), attention mask (B, L), positions (3, B, L)), padded on the left or on the right."""
        length = max(row.ids.size for row in rows)
        ids = np.full((len(rows), length), self.codec.end_of_text, np.int64)
        is_image = np.zeros((len(rows), length), bool)
        mask = np.zeros((len(rows), length), np.int64)
        positions = np.zeros((3, len(rows), length), np.int64)
        for index, row in enumerate(rows):
            at = slice(length - row.ids.size, length) if left else slice(0, row.ids.size)
            ids[index, at], is_image[index, at], mask[index, at] = row.ids, row.is_image, 1
            positions[:, index, at] = row.positions
        embeds = self.language.embed_tokens(torch.from_numpy(ids).to(self.device))
        images = [image for row in rows for image in row.images]
        if images:
            keys = [key for row in rows for key in row.image_keys]
            features = self.project(torch.cat(self.features.encode(images, keys=keys)))
            where = torch.from_numpy(is_image).to(self.device)
            if int(where.sum()) != len(features):
                raise ArtifactError(
                    f"{int(where.sum())} image placeholders but {len(features)} image features, so images and text "
                    "would not match.",
                    remedy="The base folder's config.json and policy.json disagree; run base_model again.",
                )
            embeds = embeds.masked_scatter(where.unsqueeze(-1), features.to(embeds))
        return embeds, torch.from_numpy(mask).to(self.device), torch.from_numpy(positions).to(self.device)

    def run(
        self,
        embeds: torch.Tensor,
        mask: torch.Tensor | dict[str, torch.Tensor] | None,
        positions: torch.Tensor,
        *,
        cache: Any = None,
        every_layer: bool = False,
    ) -> Any:
        """The text model's output for embeddings (B, L, D) at positions (3, B, L); `cache` is read and extended."""
        return self.language(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=self.place(positions),
            past_key_values=cache,
            use_cache=cache is not None,
            output_hidden_states=every_layer,
        )

    def generate(
        self,
        conversations: Sequence[Conversation],
        *,
        temperature: float = 0.0,
        max_new_tokens: int = 48,
        seed: int = 0,
        beginnings: Sequence[str] = (),
    ) -> list[Generation]:
        if not conversations:
            return []
        starts = list(beginnings) or [""] * len(conversations)
        rows = self.layout.encode_all(conversations, generate=True, beginnings=starts)
        with torch.no_grad(), self.answering():
            said = continue_rows(self, rows, temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
        return [begun(start, self.codec.encode(start), item) for start, item in zip(starts, said)]

    def hidden_states(self, rows: Sequence[Encoded]) -> torch.Tensor:
        """Last hidden states (B, L, D), differentiable; rows padded on the right."""
        return self.layer_states(rows, None)[0]

    def layer_states(self, rows: Sequence[Encoded], layer: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """(last hidden states, normalised states after `layer` decoder layers), both (B, L, D)."""
        embeds, _, positions = self.embed(rows, left=False)
        # No mask: what pads a row on the right is never seen by the tokens before it.
        output = self.run(embeds, None, positions, every_layer=layer is not None)
        last = output.last_hidden_state
        return last, last if layer is None else self.language.norm(output.hidden_states[layer])

    def pretraining_states(self, rows: Sequence[Encoded]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """(every last hidden states (B, L, D) that pretraining reads logits from, normalised states half way up)."""
        last, middle = self.layer_states(rows, self.halfway)
        return [last], middle

    def forward(self, conversations: Sequence[Conversation]) -> Forward:
        return self.forward_rows(self.layout.encode_all(conversations))

    def forward_rows(self, rows: Sequence[Encoded]) -> Forward:
        """What `forward` gives, of conversations that are encoded already."""
        return self.logits_at(self.hidden_states(rows), rows)

    def token_logprobs(self, conversations: Sequence[Conversation]) -> tuple[torch.Tensor, torch.Tensor]:
        rows = self.layout.encode_all(conversations)
        tokens_of = [[self.patching.num_tokens(*image.shape[:2]) for image in row.images] for row in rows]
        if (packs := pack(rows, tokens_of)) is not None:
            return packed_logprobs(self, rows, packs)
        logits, where, targets = self.logits_at(self.hidden_states(rows), rows)
        chosen = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        logprobs = torch.zeros(where.shape, device=chosen.device).masked_scatter(where, chosen)
        return logprobs, where.float()

    def logits_at(self, states: torch.Tensor, rows: Sequence[Encoded]) -> Forward:
        """What `forward` gives, from states that are known already."""
        where, targets = self.learned(rows, states.shape[1])
        return Forward(self.logits(states[:, :-1][where]), where, targets)

    def learned(self, rows: Sequence[Encoded], length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(mask (B, length - 1) of positions whose next token is learned, these tokens' ids (N,))."""
        learn = np.zeros((len(rows), length), bool)
        ids = np.zeros((len(rows), length), np.int64)
        for index, row in enumerate(rows):
            learn[index, : row.ids.size], ids[index, : row.ids.size] = row.learn, row.ids
        where = torch.from_numpy(learn[:, 1:]).to(self.device)
        return where, torch.from_numpy(ids[:, 1:]).to(self.device)[where]

    # -- weights -----------------------------------------------------------------------------------------------------

    def trainable_parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def add_adapter(self, *, rank: int = 16, alpha: int | None = None, seed: int = 0) -> None:
        """Put a fresh LoRA adapter on the language model; it changes nothing until it is trained."""
        self._peft = adapters.attach(self.model, adapters.lora_config(rank, alpha), seed=seed)

    @property
    def peft(self) -> Any:
        """PEFT's wrapper of the model, for what only PEFT can do to an adapter.

        Raises:
            ArtifactError: there is no adapter.
        """
        return adapters.require(self._peft)

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter is on the model."""
        return self._peft is not None

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Recompute the language model's activations in the backward pass instead of keeping them."""
        if not on:
            self.checkpointed.gradient_checkpointing_disable()
            return
        self.checkpointed.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.language.train()  # transformers checkpoints in training mode only; there is no dropout to switch on

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """The language model as it generates: transformers drops the key-value cache of a checkpointed model."""
        training = self.language.training
        self.language.eval()
        try:
            yield
        finally:
            self.language.train(training)

    def adapter_state(self) -> dict[str, torch.Tensor]:
        """A copy of the adapter's tensors by name, on the CPU."""
        return adapters.state(self._peft)

    def set_adapter_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Replace the adapter's tensors in place; refused whole where a name or shape differs."""
        adapters.set_state(self._peft, tensors)

    def save_adapter(self, directory: Path) -> str:
        return adapters.save(self._peft, directory, self.base_digest)

    def load_adapter(self, directory: Path) -> str:
        self._peft = adapters.load(self.model, self._peft, directory, self.base_digest)
        return self.digest

    def save_base(self, directory: Path) -> None:
        """Write the base folder: weights (safetensors), configuration, tokenizer, policy.json."""
        if self._peft is not None:
            raise ArtifactError("a policy with an adapter has no base of its own to save.", remedy="Save the adapter.")
        directory.mkdir(parents=True, exist_ok=True)
        self.save_model(directory)
        self.codec.save(directory)
        write_description(self.description, directory)
        self.base_digest = base_digest(directory)


def begun(text: str, ids: tuple[int, ...], said: Generation) -> Generation:
    """A generation with its forced beginning in front."""
    if not ids:
        return said
    return Generation(text + said.text, ids + said.token_ids, said.logprobs, said.finished, forced=len(ids))


def cache_size(model: Any) -> dict[str, int]:
    """Bytes of features that are kept: a sixteenth of an accelerator's memory, the cache's own default elsewhere."""
    device = next(model.parameters()).device
    if device.type != "cuda":
        return {}
    return {"max_bytes": torch.cuda.get_device_properties(device).total_memory // 16}

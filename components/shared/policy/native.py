"""The native policy: transformers' Qwen2_5_VLForConditionalGeneration behind the `Policy` interface.

Guarantees: the vision tower is frozen and its features are cached; the distribution is over ordinary tokens and the
end of a turn only (control tokens have probability 0 in sampling and in scoring alike, so a sampled
`<|image_pad|>` cannot occur and ratios are exact); an adapter is swapped whole or not at all.
Not guaranteed: thread safety; equal results across batch sizes beyond floating-point rounding.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.shared.policy import adapters
from components.shared.policy.description import POLICY_FILE, PolicyDescription, read_description
from components.shared.policy.generation import continue_batch
from components.shared.policy.images import Patching
from components.shared.policy.interface import Conversation, Generation, Policy
from components.shared.policy.layout import Encoded, Layout
from components.shared.policy.packing import pack, packed_logprobs
from components.shared.policy.tokenizer import TOKENIZER_FILE, TextCodec
from components.shared.policy.vision import FeatureCache
from components.shared.runtime.artifacts import sha256_file
from components.shared.runtime.errors import ArtifactError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class NativePolicy(Policy):
    """Qwen2.5-VL with an optional LoRA adapter.

    Args:
        model: `Qwen2_5_VLForConditionalGeneration`; all its parameters are frozen here.
        codec: The tokenizer.
        description: Content of policy.json.
        base_digest: Digest of the base's files.
    """

    def __init__(self, model: Any, codec: TextCodec, description: PolicyDescription, base_digest: str) -> None:
        self.model, self.codec, self.description, self.base_digest = model, codec, description, base_digest
        self.quantised: tuple[str, ...] = ()
        vision = model.config.vision_config
        self.patching = Patching(
            vision.patch_size,
            vision.spatial_merge_size,
            vision.temporal_patch_size,
            description.min_pixels,
            description.max_pixels,
        )
        self.layout = Layout(codec, self.patching, image_markers=description.image_markers, system=description.system)
        self.features = FeatureCache()
        self._peft: Any = None
        model.eval()
        model.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the language model is."""
        return self.language.embed_tokens.weight.device

    @property
    def language(self) -> Any:
        """The text model (`Qwen2_5_VLTextModel`)."""
        return self.model.model.language_model

    @cached_property
    def allowed(self) -> torch.Tensor:
        """float32 (V,): 0 where a token may be produced, -inf at control tokens and unused rows."""
        mask = torch.full((self.model.config.text_config.vocab_size,), float("-inf"))
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

    # -- running -----------------------------------------------------------------------------------------------------

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
            features = torch.cat(self.features.encode(self.model.model.visual, images, self.patching))
            where = torch.from_numpy(is_image).to(self.device)
            if int(where.sum()) != len(features):
                raise ArtifactError(
                    f"{int(where.sum())} image placeholders but {len(features)} image features, so images and text "
                    "would not match.",
                    remedy="The base folder's config.json and policy.json disagree; run base_model again.",
                )
            embeds = embeds.masked_scatter(where.unsqueeze(-1), features.to(embeds))
        return embeds, torch.from_numpy(mask).to(self.device), torch.from_numpy(positions).to(self.device)

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
        rows = [
            self.layout.encode(conversation, generate=True, beginning=start)
            for conversation, start in zip(conversations, starts, strict=True)
        ]
        with torch.no_grad():
            said = continue_batch(self, rows, temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
        return [begun(start, self.codec.encode(start), item) for start, item in zip(starts, said)]

    def hidden_states(self, rows: Sequence[Encoded]) -> torch.Tensor:
        """Last hidden states (B, L, D), differentiable; rows padded on the right."""
        return self.layer_states(rows, None)[0]

    def layer_states(self, rows: Sequence[Encoded], layer: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """(last hidden states, normalised states after `layer` decoder layers), both (B, L, D)."""
        embeds, mask, positions = self.embed(rows, left=False)
        full = None if bool(mask.all()) else mask
        output = self.language(
            inputs_embeds=embeds,
            attention_mask=full,
            position_ids=positions,
            use_cache=False,
            output_hidden_states=layer is not None,
        )
        last = output.last_hidden_state
        return last, last if layer is None else self.language.norm(output.hidden_states[layer])

    def token_logprobs(self, conversations: Sequence[Conversation]) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [self.layout.encode(conversation) for conversation in conversations]
        tokens_of = [[self.patching.num_tokens(*image.shape[:2]) for image in row.images] for row in rows]
        if (packs := pack(rows, tokens_of)) is not None:
            return packed_logprobs(self, rows, packs)
        logits, where, targets = self.learned_logits(rows)
        chosen = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        logprobs = torch.zeros(where.shape, device=chosen.device).masked_scatter(where, chosen)
        return logprobs, where.float()

    def learned_logits(self, rows: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits where the loss is: (N, V) float32, mask (B, L-1) with N True entries, target ids (N,)."""
        return self.logits_at(self.hidden_states(rows), rows)

    def logits_at(
        self, states: torch.Tensor, rows: Sequence[Encoded]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`learned_logits` from states that are known already."""
        length = states.shape[1]
        learn = np.zeros((len(rows), length), bool)
        ids = np.zeros((len(rows), length), np.int64)
        for index, row in enumerate(rows):
            learn[index, : row.ids.size], ids[index, : row.ids.size] = row.learn, row.ids
        where = torch.from_numpy(learn[:, 1:]).to(self.device)
        targets = torch.from_numpy(ids[:, 1:]).to(self.device)[where]
        logits = self.model.lm_head(states[:, :-1][where]).float() + self.allowed
        return logits, where, targets

    # -- weights -----------------------------------------------------------------------------------------------------

    def trainable_parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def train_language(self) -> None:
        """Full-parameter training of the language model (the vision tower stays frozen)."""
        self.language.requires_grad_(True)
        self.model.lm_head.requires_grad_(True)

    def add_adapter(self, *, rank: int = 16, alpha: int | None = None, seed: int = 0) -> None:
        """Put a fresh LoRA adapter on the language model; it changes nothing until it is trained."""
        self._peft = adapters.attach(self.model, adapters.lora_config(rank, alpha), seed=seed)

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter is on the model."""
        return self._peft is not None

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Recompute the language model's activations in the backward pass instead of keeping them."""
        if not on:
            self.model.gradient_checkpointing_disable()
            return
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.language.train()  # transformers checkpoints in training mode only; there is no dropout to switch on

    def warm(self, images: Iterable[np.ndarray], batch: int = 4096) -> None:
        """Compute the features of images beforehand, in a fixed order.

        Features of a batch may differ in the last bit from those of another batch that holds the same image: training
        that must repeat bit for bit asks for all of them first, in the same order each time.
        """
        waiting: list[np.ndarray] = []
        for image in images:
            waiting.append(image)
            if len(waiting) == batch:
                self.features.encode(self.model.model.visual, waiting, self.patching)
                waiting = []
        if waiting:
            self.features.encode(self.model.model.visual, waiting, self.patching)

    def adapter_state(self) -> dict[str, torch.Tensor]:
        """A copy of the adapter's tensors by name, on the CPU."""
        return adapters.state(self._peft)

    def set_adapter_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Replace the adapter's tensors in place; refused whole where a name or shape differs."""
        adapters.set_state(self._peft, tensors)

    @contextlib.contextmanager
    def without_adapter(self) -> Iterator[None]:
        """The base alone, inside the block."""
        if self._peft is None:
            yield
            return
        with self._peft.disable_adapter():
            yield

    def save_adapter(self, directory: Path) -> str:
        return adapters.save(self._peft, directory, self.base_digest)

    def load_adapter(self, directory: Path) -> str:
        self._peft = adapters.load(self.model, self._peft, directory, self.base_digest)
        return self.digest

    def save_base(self, directory: Path) -> None:
        """Write the base folder: weights (safetensors), configuration, tokenizer, policy.json."""
        from components.shared.policy.description import write_description

        if self._peft is not None:
            raise ArtifactError("a policy with an adapter has no base of its own to save.", remedy="Save the adapter.")
        directory.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(directory)
        self.codec.save(directory)
        write_description(self.description, directory)
        self.base_digest = base_digest(directory)


def begun(text: str, ids: tuple[int, ...], said: Generation) -> Generation:
    """A generation with its forced beginning in front."""
    if not ids:
        return said
    return Generation(text + said.text, ids + said.token_ids, said.logprobs, said.finished, forced=len(ids))


def base_digest(base: Path) -> str:
    """sha256 over the files that make a base's behaviour: configuration, tokenizer, description, weights."""
    names = ["config.json", TOKENIZER_FILE, POLICY_FILE, *sorted(path.name for path in base.glob("*.safetensors"))]
    digest = hashlib.sha256()
    for name in names:
        if not (base / name).is_file():
            raise ArtifactError(
                f"{base / name} is missing, so {base.name} is not a usable base.", remedy="Run base_model again."
            )
        digest.update(f"{name}\0{sha256_file(base / name)}\n".encode())
    if not any(name.endswith(".safetensors") for name in names):
        raise ArtifactError(
            f"{base} holds no safetensors weights, so there is no model.", remedy="Run base_model again."
        )
    return digest.hexdigest()


def load_policy(
    base: Path,
    adapter: Path | None = None,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    quantisation: str = "none",
) -> NativePolicy:
    """Load a native policy.

    Args:
        base: Folder with config.json, safetensors, tokenizer.json and policy.json.
        adapter: Folder of a LoRA adapter made for this base, or None.
        device: `cpu`, `cuda` ...
        dtype: `float32`, `float16`, `bfloat16`; None for what the device does well.
        quantisation: `none`, `nf4` or `int8` (bitsandbytes; language model's linear layers only).

    Raises:
        ArtifactError: the folder is incomplete, or the adapter was made for another base.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration

    from components.shared.policy.quantisation import quantisation_config, quantised_modules

    description = read_description(base)
    digest = base_digest(base)
    number = DTYPES[dtype] if dtype else default_dtype(device)
    extra: dict[str, Any] = {}
    if quantisation != "none":
        extra = {"quantization_config": quantisation_config(base, quantisation, number), "device_map": {"": device}}
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        base, local_files_only=True, use_safetensors=True, dtype=number, attn_implementation="sdpa", **extra
    )
    if quantisation == "none":
        model = model.to(torch.device(device))  # type: ignore[arg-type]
    policy = NativePolicy(model, TextCodec.load(base), description, digest)
    policy.quantised = tuple(quantised_modules(model))
    if adapter is not None:
        policy.load_adapter(adapter)
    return policy


def default_dtype(device: str) -> torch.dtype:
    """float32 on the CPU; on a GPU bfloat16 where it is native, float16 on older ones (a T4)."""
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16

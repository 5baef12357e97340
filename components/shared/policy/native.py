"""The native policy: transformers' Qwen2_5_VLForConditionalGeneration, whose own tower sees the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.shared.policy.base_folder import number_type
from components.shared.policy.decoder import DecoderPolicy
from components.shared.policy.description import PolicyDescription
from components.shared.policy.images import Patching, patchify
from components.shared.policy.tokenizer import TextCodec
from components.shared.policy.vision import encode_equal


class NativePolicy(DecoderPolicy):
    """Qwen2.5-VL.

    Args:
        model: `Qwen2_5_VLForConditionalGeneration`; all its parameters are frozen here.
        codec: The tokenizer.
        description: Content of policy.json.
        base_digest: Digest of the base's files.
    """

    def __init__(self, model: Any, codec: TextCodec, description: PolicyDescription, base_digest: str) -> None:
        vision = model.config.vision_config
        patching = Patching(
            vision.patch_size,
            vision.spatial_merge_size,
            vision.temporal_patch_size,
            description.min_pixels,
            description.max_pixels,
        )
        super().__init__(model, codec, description, base_digest, patching)

    @property
    def language(self) -> Any:
        """The text model (`Qwen2_5_VLTextModel`)."""
        return self.model.model.language_model

    @property
    def text_config(self) -> Any:
        return self.model.config.text_config

    def encode_images(self, images: np.ndarray) -> torch.Tensor:
        patches, grid = patchify(images, self.patching)
        return encode_equal(self.model.model.visual, patches.to(self.device), grid)

    def train_language(self) -> None:
        self.language.requires_grad_(True)
        self.model.lm_head.requires_grad_(True)

    def save_model(self, directory: Path) -> None:
        self.model.save_pretrained(directory)


def load_native(
    base: Path, description: PolicyDescription, digest: str, *, device: str, dtype: str | None, quantisation: str
) -> NativePolicy:
    """The native policy of a base folder; see `load_policy`."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    from components.shared.policy.quantisation import loading_options, quantised_modules

    number = number_type(dtype, device)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        base,
        local_files_only=True,
        use_safetensors=True,
        dtype=number,
        attn_implementation="sdpa",
        **loading_options(base, Qwen2_5_VLForConditionalGeneration, quantisation, number, device),
    )
    if quantisation == "none":
        model = model.to(torch.device(device))  # type: ignore[arg-type]
    policy = NativePolicy(model, TextCodec.load(base), description, digest)
    policy.quantised = tuple(quantised_modules(model))
    return policy

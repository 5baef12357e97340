"""The weights of a prefix policy: a frozen aligned image encoder, vision_proj, a causal language model, a refiner.

Role: `see` turns images into aligned tokens exactly as the alignment step's encoder made them (tower and projector; its
pooling over a clip is not needed here). An image larger than the tower's is cut into tiles, each seen at full detail:
a ZOOM_IN crop keeps its pixels. `vision_proj` turns aligned tokens into the language model's input embeddings.
A base folder holds the language model in hub layout, and beside it

    prefix.json          format, encoder and tower configuration, digest of the alignment encoder, refiner's shape
    prefix.safetensors   tower, projector, vision_proj, centre and spread of the features, refiner
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from components.shared.encoders.config import EncoderConfig
from components.shared.encoders.model import tower_card
from components.shared.encoders.vision import VisionEncoder, to_pixels
from components.shared.policy.base_folder import PREFIX_FILE, PREFIX_WEIGHTS
from components.shared.policy.images import Patching
from components.shared.policy.shapes import RecursionShape
from components.shared.policy.trm import Refiner
from components.shared.runtime.artifacts import read_json, write_json
from components.shared.runtime.errors import ArtifactError

FORMAT = "pixelis-prefix-1"


@dataclass(frozen=True)
class Tiling(Patching):
    """How images are cut into square tiles of `patch` pixels a side, each of which becomes `tokens` tokens."""

    tokens: int = 1

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """One row of tokens: positions simply count up."""
        rows, columns = self.grid(height, width)
        return 1, rows * columns * self.tokens


class PrefixModel(nn.Module):
    """All weights; see the module's docstring.

    Args:
        language_model: A causal language model of transformers, or `CausalTrm`.
        config: The alignment encoder's configuration.
        tower: Its image tower, a CLIPVisionModel.
        encoder_digest: Of the alignment encoder's weights.
        refiner: Shape of the refinement; None for none.
    """

    centre: torch.Tensor
    spread: torch.Tensor

    def __init__(
        self,
        language_model: Any,
        config: EncoderConfig,
        tower: Any,
        encoder_digest: str,
        refiner: RecursionShape | None = None,
    ) -> None:
        super().__init__()
        self.language_model, self.encoder_digest = language_model, encoder_digest
        self.encoder_config = config.model_copy(update={"pooling": "mean"})  # the only pooling without weights
        self.vision = VisionEncoder(self.encoder_config, tower)
        hidden, width = int(language_model.config.hidden_size), config.full_width
        self.vision_proj = nn.Linear(width, hidden)
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("spread", torch.ones(()))
        self.refiner = None if refiner is None else Refiner(hidden, refiner)

    is_gradient_checkpointing = False
    """PEFT prepares models whose inputs are ids for it; here embeddings come in, and they need no preparation."""

    @property
    def is_loaded_in_4bit(self) -> bool:
        """What PEFT asks before it wraps a layer."""
        return bool(getattr(self.language_model, "is_loaded_in_4bit", False))

    @property
    def is_loaded_in_8bit(self) -> bool:
        """What PEFT asks before it wraps a layer."""
        return bool(getattr(self.language_model, "is_loaded_in_8bit", False))

    def see(self, images: np.ndarray, tiling: Tiling) -> torch.Tensor:
        """Aligned tokens of equal-sized images: uint8 (N, height, width, 3) -> (N, tokens, width)."""
        pixels = to_pixels(tiles(images, tiling), self.vision.image_size)
        tokens = self.vision.frames(self.vision.frame_features(pixels.to(self.vision_proj.weight.dtype))).sequence
        return tokens.reshape(len(images), -1, tokens.shape[-1])

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Aligned tokens (N, width) as input embeddings (N, D)."""
        weight = self.vision_proj.weight
        return self.vision_proj(((features.to(weight.device) - self.centre) / self.spread).to(weight.dtype))

    def calibrate(self, features: torch.Tensor) -> None:
        """Take centre and spread (mean distance from it) of the features (N, width): projected tokens then vary.

        A constant part and a large norm drown what the language model writes at an image's position.
        """
        self.centre.copy_(features.mean(0))
        self.spread.copy_((features - self.centre).norm(dim=1).mean().clamp_min(1e-6))

    def own_state(self) -> dict[str, torch.Tensor]:
        """All tensors but the language model's."""
        state = self.state_dict()
        return {name: tensor for name, tensor in state.items() if not name.startswith("language_model.")}

    def save(self, directory: Path) -> None:
        """Write the language model in hub layout, prefix.json and prefix.safetensors."""
        self.language_model.save_pretrained(directory)
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self.own_state().items()}
        save_file(tensors, directory / PREFIX_WEIGHTS)
        card = {
            "format": FORMAT,
            "encoder": self.encoder_config.model_dump(mode="json"),
            "tower": tower_card(self.vision.tower),
            "encoder_digest": self.encoder_digest,
            "refiner": None if self.refiner is None else self.refiner.shape.model_dump(mode="json"),
        }
        write_json(directory / PREFIX_FILE, card)


def tiles(images: np.ndarray, tiling: Tiling) -> np.ndarray:
    """Equal-sized images cut into tiles, row by row: (N, height, width, 3) -> (N * tiles, side, side, 3)."""
    high, wide = tiling.target_size(images.shape[1], images.shape[2])
    if (high, wide) != images.shape[1:3]:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        scaled = functional.interpolate(pixels, (high, wide), mode="bilinear", antialias=True, align_corners=False)
        images = scaled.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    side = tiling.patch
    cut = images.reshape(len(images), high // side, side, wide // side, side, 3)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side, side, 3)


def load_prefix_model(base: Path, language_model: Any) -> PrefixModel:
    """The weights beside the language model in a base folder, put together with it.

    Raises:
        ArtifactError: missing, of another format, or damaged; names the file.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModel

    card = read_json(base / PREFIX_FILE)
    if card.get("format") != FORMAT:
        raise ArtifactError(
            f"{base / PREFIX_FILE} has format {card.get('format')!r}, {FORMAT} is needed.",
            remedy="Run base_model again.",
        )
    config = EncoderConfig.model_validate(card["encoder"])
    tower = CLIPVisionModel(CLIPVisionConfig(**card["tower"]))
    refiner = None if card["refiner"] is None else RecursionShape.model_validate(card["refiner"])
    model = PrefixModel(language_model, config, tower, card["encoder_digest"], refiner)
    try:
        tensors = load_file(base / PREFIX_WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"{base / PREFIX_WEIGHTS} cannot be loaded ({error}).", remedy="Run base_model again."
        ) from error
    own = model.own_state()
    wrong = sorted(
        name
        for name in own.keys() | tensors.keys()
        if name not in own or name not in tensors or own[name].shape != tensors[name].shape
    )
    if wrong:
        raise ArtifactError(
            f"{base / PREFIX_WEIGHTS} does not fit {PREFIX_FILE}: {len(wrong)} tensors differ (first: {wrong[0]}).",
            remedy="Run base_model again.",
        )
    model.load_state_dict(tensors, strict=False)
    return model

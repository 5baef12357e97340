"""The alignment model: the towers side by side, with one learned temperature; built fresh or from its artifact.

Artifact layout (self-contained, loadable without a network):

    encoder.json         format, EncoderConfig, each tower's transformers configuration
    model.safetensors    all weights
    tokenizer/           the text tower's tokenizer
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperModel,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from components.shared.encoders.audio import AudioEncoder, tiny_whisper_config
from components.shared.encoders.config import EncoderConfig
from components.shared.encoders.fusion import Fusion
from components.shared.encoders.losses import INITIAL_LOG_SCALE
from components.shared.encoders.text import TextEncoder, tiny_text_config, train_tokenizer
from components.shared.encoders.vision import VisionEncoder, tiny_vision_config
from components.shared.runtime.artifacts import read_json, write_json
from components.shared.runtime.errors import ArtifactError, ConfigError

FORMAT = "pixelis-encoder-1"
CARD, WEIGHTS, TOKENIZER = "encoder.json", "model.safetensors", "tokenizer"


class AlignmentModel(nn.Module):
    """Encoders by modality name (`vision`, `text`, `audio` where configured) and the log of the inverse temperature."""

    def __init__(
        self, config: EncoderConfig, vision: nn.Module, text: nn.Module, tokenizer: Any, audio: Any = None
    ) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionEncoder(config, vision)  # type: ignore[arg-type]
        self.text = TextEncoder(config, text, tokenizer)
        self.audio = AudioEncoder(config, audio) if audio is not None else None
        self.fusion = (
            Fusion(
                config.fusion,
                ("vision", "audio"),
                config.full_width,
                heads=config.perceiver_heads,
                widths=config.widths,
            )
            if config.fusion != "none"
            else None
        )
        self.log_scale = nn.Parameter(torch.tensor(INITIAL_LOG_SCALE))
        frozen = (
            (self.vision.tower, config.vision_tower.frozen),
            (self.text.tower, config.text_tower.frozen),
            (audio, config.audio_tower.frozen),
        )
        for tower, freeze in frozen:
            if tower is not None and freeze:
                tower.requires_grad_(False)

    def save(self, directory: Path) -> None:
        """Write the artifact."""
        directory.mkdir(parents=True, exist_ok=True)
        towers = {"vision": tower_card(self.vision.tower), "text": tower_card(self.text.tower)}
        if self.audio is not None:
            towers["audio"] = tower_card(self.audio.tower)
        weights = {name: tensor.detach().contiguous().clone() for name, tensor in self.state_dict().items()}
        save_file(weights, directory / WEIGHTS)
        self.text.tokenizer.save_pretrained(directory / TOKENIZER)
        card = {"format": FORMAT, "config": self.config.model_dump(mode="json"), "towers": towers}
        write_json(directory / CARD, card)


def tower_card(tower: Any) -> dict[str, Any]:
    """A tower's transformers configuration as JSON values."""
    return json.loads(tower.config.to_json_string(use_diff=False))


def build_model(config: EncoderConfig, texts: Sequence[str]) -> AlignmentModel:
    """A fresh model: tiny towers from the configuration's numbers, or pretrained ones where it names them.

    Args:
        config: The shape.
        texts: What the tiny text tower's tokenizer is trained on.
    """
    if config.vision_tower.pretrained:
        vision = pretrained(CLIPVisionModel, config.vision_tower.pretrained, config.vision_tower.revision)
    else:
        vision = CLIPVisionModel(tiny_vision_config(config))
    if config.text_tower.pretrained:
        text, tokenizer = pretrained_text(config.text_tower.pretrained, config.text_tower.revision)
    else:
        tokenizer = train_tokenizer(texts, vocabulary=config.text_tower.vocabulary)
        text = CLIPTextModel(tiny_text_config(config, tokenizer))
    audio = None
    if config.audio and config.audio_tower.pretrained:
        whole: Any = pretrained(WhisperModel, config.audio_tower.pretrained, config.audio_tower.revision)
        audio = whole.get_encoder()
    elif config.audio:
        audio = WhisperEncoder(tiny_whisper_config(config))
    return AlignmentModel(config, vision, text, tokenizer, audio)


def check_pinned(name: str, revision: str) -> None:
    """Refuse a hub name without a revision: its weights could change unseen."""
    if not Path(name).is_dir() and not revision:
        raise ConfigError(
            f"{name} is no local folder and no revision is given, so its weights could change unseen.",
            remedy="Set its `revision`.",
        )


def pretrained(kind: Any, name: str, revision: str) -> nn.Module:
    """Weights of a local folder in hub layout or of the hub at a pinned revision (safetensors only).

    Raises:
        ConfigError: a hub name without a revision, or weights that cannot be had.
    """
    check_pinned(name, revision)
    try:
        return kind.from_pretrained(name, revision=revision or None, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{kind.__name__} weights {name}@{revision or 'local'} cannot be loaded ({str(error).splitlines()[0]}).",
            remedy="Allow network access, or give a local folder in hub layout with *.safetensors.",
        ) from error


def pretrained_text(name: str, revision: str) -> tuple[nn.Module, Any]:
    """A text tower and its tokenizer; CLIP checkpoints give their text half."""
    check_pinned(name, revision)
    try:
        kind = AutoConfig.from_pretrained(name, revision=revision or None).model_type
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision or None)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the text tower {name} cannot be loaded ({str(error).splitlines()[0]}).",
            remedy="Allow network access, or give a local folder in hub layout.",
        ) from error
    return pretrained(CLIPTextModel if kind.startswith("clip") else AutoModel, name, revision), tokenizer


def load_model(directory: Path) -> AlignmentModel:
    """The model of an artifact, in evaluation mode.

    Raises:
        ArtifactError: not an encoder artifact, or weights that do not fit its card; names the file.
    """
    card = read_json(directory / CARD)
    if card.get("format") != FORMAT:
        raise ArtifactError(
            f"{directory / CARD} has format {card.get('format')!r}, {FORMAT} is needed.", remedy="Run alignment again."
        )
    config, towers = EncoderConfig.model_validate(card["config"]), card["towers"]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory / TOKENIZER)
    vision = CLIPVisionModel(CLIPVisionConfig(**towers["vision"]))
    if towers["text"]["model_type"].startswith("clip"):
        text: nn.Module = CLIPTextModel(CLIPTextConfig(**towers["text"]))
    else:
        text = AutoModel.from_config(AutoConfig.for_model(**towers["text"]))
    audio = WhisperEncoder(WhisperConfig(**towers["audio"])) if "audio" in towers else None
    model = AlignmentModel(config, vision, text, tokenizer, audio)
    try:
        model.load_state_dict(load_file(directory / WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(
            f"{directory / WEIGHTS} cannot be loaded ({str(error).splitlines()[0]}).", remedy="Run alignment again."
        ) from error
    return model.eval()

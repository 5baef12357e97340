"""Tiny policies from configuration: the transformers classes at a size that two cores train in minutes.

One 56-pixel frame is one token (native: patch 14, merge 4; prefix: one tile); a 112-pixel crop is four.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.shared.policy.description import PolicyDescription, PolicyKind
from components.shared.policy.native import NativePolicy
from components.shared.policy.tokenizer import TextCodec, build_tokenizer
from components.shared.runtime.errors import ConfigError

if TYPE_CHECKING:
    from components.shared.encoders.model import AlignmentModel
    from components.shared.policy.prefix import PrefixPolicy
    from components.shared.policy.shapes import RecursionShape


@dataclass(frozen=True)
class TinySize:
    """Sizes of the tiny model."""

    hidden: int = 192
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 512
    vision_hidden: int = 128
    vision_depth: int = 4
    vision_heads: int = 4
    patch: int = 14
    merge: int = 4


def tiny_config(size: TinySize, codec: TextCodec) -> Any:
    """A `Qwen2_5_VLConfig`; the rotary sections sum to half the head dimension, as the class demands."""
    from transformers import Qwen2_5_VLConfig

    head = size.hidden // size.heads
    if size.hidden % size.heads or head % 2:
        raise ConfigError(f"hidden {size.hidden} must be an even multiple of heads {size.heads}.")
    third = head // 6
    text = {
        "vocab_size": codec.size,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "max_position_embeddings": 2048,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [head // 2 - 2 * third, third, third],
        },
        "bos_token_id": codec.turn_start,
        "eos_token_id": codec.turn_end,
        "pad_token_id": codec.end_of_text,
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": size.vision_depth,
        "hidden_size": size.vision_hidden,
        "intermediate_size": size.vision_hidden * 2,
        "num_heads": size.vision_heads,
        "patch_size": size.patch,
        "spatial_merge_size": size.merge,
        "temporal_patch_size": 2,
        "window_size": 112,
        "out_hidden_size": size.hidden,
        "fullatt_block_indexes": list(range(size.vision_depth)),
        "tokens_per_second": 4,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=codec.image,
        video_token_id=codec.control_id("<|video_pad|>"),
        vision_start_token_id=codec.vision_start,
        vision_end_token_id=codec.vision_end,
        tie_word_embeddings=True,
    )


def tiny_language_config(size: TinySize, codec: TextCodec) -> Any:
    """A `Qwen2Config` of the same sizes as the native policy's language model."""
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=codec.size,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=codec.turn_start,
        eos_token_id=codec.turn_end,
        pad_token_id=codec.end_of_text,
        tie_word_embeddings=True,
    )


def tiny_texts(
    labels: Sequence[str],
    *,
    choices: Sequence[str] = (),
    phrases: Sequence[str] = (),
    corpus: Iterable[str] = (),
    num_frames: int = 16,
    view_size: int = 56,
    duration_s: float = 5.0,
    vocabulary: int = 600,
    provenance: str = "synthetic",
    kind: PolicyKind = "native",
    token_side: int = 56,
) -> tuple[TextCodec, PolicyDescription]:
    """Tokenizer and description of a tiny policy; see `build_tokenizer` for what the texts are for.

    Args:
        token_side: Side, in pixels, of the least image that the policy sees.
    """
    tokenizer = build_tokenizer(
        labels,
        choices=choices,
        phrases=phrases,
        corpus=corpus,
        num_frames=num_frames,
        duration_s=duration_s,
        vocabulary=vocabulary,
    )
    description = PolicyDescription(
        kind=kind,
        labels=tuple(labels),
        choices=tuple(choices),
        num_frames=num_frames,
        view_size=view_size,
        image_markers=False,
        min_pixels=token_side**2,
        max_pixels=(token_side * 8) ** 2,
        provenance=provenance,  # type: ignore[arg-type]
    )
    return TextCodec(tokenizer), description


def build_tiny(labels: Sequence[str], *, size: TinySize | None = None, seed: int = 0, **texts: Any) -> NativePolicy:
    """A tiny native policy with random weights; `texts` are those of `tiny_texts`."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    size = size or TinySize()
    codec, description = tiny_texts(labels, **texts, token_side=size.patch * size.merge)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(tiny_config(size, codec))
    return NativePolicy(model, codec, description, base_digest="unsaved")


def build_tiny_prefix(
    labels: Sequence[str],
    encoder: AlignmentModel,
    encoder_digest: str,
    *,
    kind: PolicyKind = "prefix",
    size: TinySize | None = None,
    recursion: RecursionShape | None = None,
    seed: int = 0,
    **texts: Any,
) -> PrefixPolicy:
    """A tiny prefix policy: random weights behind the alignment step's image tower.

    Args:
        labels: Label names.
        encoder: The aligned model; its tower becomes the policy's own and is frozen.
        encoder_digest: Of its weights.
        kind: `prefix`, `prefix_trm` or `trm_decoder`.
        size: Of the language model; unused by `trm_decoder`.
        recursion: Shape of the recursive network of the latter two.
        seed: Of the weights.
        texts: Those of `tiny_texts`.
    """
    import torch
    from transformers import Qwen2ForCausalLM

    from components.shared.policy.prefix import PrefixPolicy
    from components.shared.policy.prefix_model import PrefixModel
    from components.shared.policy.shapes import RecursionShape
    from components.shared.policy.trm_decoder import CausalTrm

    recursion = recursion or RecursionShape()
    codec, description = tiny_texts(labels, **texts, kind=kind, token_side=encoder.vision.image_size)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "trm_decoder":
            language: Any = CausalTrm(codec.size, recursion)
        else:
            language = Qwen2ForCausalLM(tiny_language_config(size or TinySize(), codec))
        refined = recursion if kind == "prefix_trm" else None
        model = PrefixModel(language, encoder.config, encoder.vision.tower, encoder_digest, refined)
    model.vision.projector.load_state_dict(encoder.vision.projector.state_dict())
    return PrefixPolicy(model, codec, description, base_digest="unsaved")

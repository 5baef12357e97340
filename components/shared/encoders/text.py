"""Texts to embeddings: CLIPTextModel (tiny or pretrained), or any transformers encoder with mean pooling.

The tiny tower has a byte-level BPE of its own, trained on the captions: every text can be tokenised, unknown words too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import CLIPTextConfig, PreTrainedTokenizerFast

from components.shared.encoders.config import EncoderConfig
from components.shared.encoders.matryoshka import Encoded, nested
from components.shared.encoders.perceiver import masked_mean

PAD, BEGIN, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"


def train_tokenizer(texts: Iterable[str], *, vocabulary: int) -> PreTrainedTokenizerFast:
    """A lower-casing byte-level BPE trained on `texts`, with at most `vocabulary` tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BEGIN, END, UNKNOWN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}", special_tokens=[(BEGIN, 1), (END, 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BEGIN, eos_token=END, unk_token=UNKNOWN
    )


def tiny_text_config(config: EncoderConfig, tokenizer: PreTrainedTokenizerFast) -> CLIPTextConfig:
    """The transformers configuration of a text tower built from numbers."""
    shape = config.text_tower
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=4 * shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=shape.max_tokens,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        # CLIPTextModel reads eos id 2 as "the largest id in the row", a heritage of CLIP's own vocabulary; the id here
        # is 2 as well, so the row's end is found by `forward` instead of by the tower.
        eos_token_id=tokenizer.eos_token_id,
    )


class TextEncoder(nn.Module):
    """Tower and projector; the vector of a text is its last token, or the mean over its real tokens."""

    def __init__(self, config: EncoderConfig, tower: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.widths, self.tokenizer, self.tower = config.widths, tokenizer, tower
        tower_config: Any = tower.config
        self.max_tokens = min(config.text_tower.max_tokens, int(tower_config.max_position_embeddings))
        self.by_end_token = config.text_tower.pooling == "end"
        hidden, dim = int(tower_config.hidden_size), config.full_width
        self.projector = nn.Sequential(nn.Linear(hidden, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, texts: Sequence[str]) -> Encoded:
        """Texts -> Encoded; `sequence` is (B, L, D) with zeros at padding."""
        batch = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.projector[0].weight.device)
        mask = batch["attention_mask"].bool()
        hidden = self.tower(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        sequence = self.projector(hidden).masked_fill(~mask[..., None], 0.0)
        if self.by_end_token:
            last = mask.sum(dim=1) - 1
            pooled = sequence[torch.arange(len(sequence)), last]
        else:
            pooled = self.projector(masked_mean(hidden, mask))
        return Encoded(pooled, sequence, nested(pooled, self.widths))

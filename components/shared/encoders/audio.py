"""Sound to embeddings: log-mel, Whisper encoder, projector, Perceiver beside the mean.

Guarantee: what lies past the end of a short sound is masked from pooling (Whisper itself sees padded mel frames).
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from components.shared.encoders.config import EncoderConfig
from components.shared.encoders.matryoshka import Encoded, nested
from components.shared.encoders.perceiver import Pool, masked_mean
from components.shared.runtime.errors import InputError

SAMPLE_RATE = 16000
STRIDE = 2
"""Whisper's second convolution halves the mel rate: at its own hop of 160 one state is 20 ms."""
HEARD_S = 0.5
"""How far from a moment a sound may be to tell what is under way then (s)."""


def decode_audio(encoded: bytes) -> np.ndarray:
    """Any sound file's bytes as float32 mono at 16 kHz, (samples,).

    Raises:
        InputError: no sound in it.
    """
    import av

    pieces: list[np.ndarray] = []
    try:
        with av.open(io.BytesIO(encoded), mode="r") as container:
            codec = container.streams.audio[0].codec_context
            if (str(codec.format and codec.format.name), codec.channels, codec.sample_rate) == ("s16", 1, SAMPLE_RATE):
                # as clips hold it; what the resampler would give, in half the time
                pieces += [frame.to_ndarray()[0] / np.float32(2**15) for frame in container.decode(audio=0)]
            else:
                resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
                for frame in container.decode(audio=0):
                    pieces += [out.to_ndarray()[0] for out in resampler.resample(frame)]
                pieces += [out.to_ndarray()[0] for out in resampler.resample(None)]
    except (av.FFmpegError, IndexError) as error:
        raise InputError(f"a sound of {len(encoded)} bytes cannot be decoded ({error}), so no embedding.") from error
    return np.concatenate(pieces).astype(np.float32) if pieces else np.zeros(0, np.float32)


def tiny_whisper_config(config: EncoderConfig) -> WhisperConfig:
    """The transformers configuration of an encoder built from numbers."""
    shape = config.audio_tower
    return WhisperConfig(
        d_model=shape.hidden,
        encoder_layers=shape.layers,
        encoder_attention_heads=shape.heads,
        encoder_ffn_dim=4 * shape.hidden,
        num_mel_bins=shape.num_mel_bins,
        max_source_positions=round(shape.seconds * SAMPLE_RATE / shape.hop_length / STRIDE),
        dropout=0.0,
    )


class AudioEncoder(nn.Module):
    """Whisper encoder, projector and pooling."""

    def __init__(self, config: EncoderConfig, tower: WhisperEncoder) -> None:
        super().__init__()
        self.widths, self.tower = config.widths, tower
        self.positions = int(tower.config.max_source_positions)
        self.hop, self.states_per_token = config.audio_tower.hop_length, config.audio_tower.states_per_token
        self.centred = config.audio_tower.centred and not config.audio_tower.pretrained
        seconds = self.positions * STRIDE * self.hop / SAMPLE_RATE
        self.extractor = WhisperFeatureExtractor(
            feature_size=int(tower.config.num_mel_bins),
            sampling_rate=SAMPLE_RATE,
            hop_length=self.hop,
            chunk_length=round(seconds),
        )
        hidden, dim = int(tower.config.d_model), config.full_width
        self.projector = nn.Sequential(nn.Linear(hidden, dim), nn.GELU(), nn.Linear(dim, dim))
        self.pool = Pool(
            config.pooling,
            dim,
            num_latents=config.num_latents,
            depth=config.perceiver_depth,
            heads=config.perceiver_heads,
        )

    def mel(self, sounds: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """16 kHz sounds -> log-mel (B, bins, frames) padded to the window, mask (B, states) of real states."""
        features = self.extractor(
            list(sounds), sampling_rate=SAMPLE_RATE, return_tensors="np", padding="max_length", truncation=True
        )["input_features"]
        frames = self.positions * STRIDE
        mel = torch.zeros(len(sounds), features.shape[1], frames)
        mel[:, :, : features.shape[2]] = torch.from_numpy(features[:, :, :frames])
        states = torch.tensor([max(1, min(self.positions, -(-len(sound) // (self.hop * STRIDE)))) for sound in sounds])
        mask = torch.arange(self.positions)[None] < states[:, None]
        if self.centred:
            real = mask.repeat_interleave(STRIDE, dim=1)[:, None]
            mel = (mel - (mel * real).sum(2, keepdim=True) / real.sum(2, keepdim=True)) * real
        return mel, mask

    def features(self, mel: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tower's states averaged into tokens; can be cached where the tower is frozen.

        Args:
            mel: (B, bins, frames).
            mask: (B, states).

        Returns:
            Features (B, L, hidden) and a mask (B, L) of the tokens that hold any sound.
        """
        states = self.tower(mel.to(self.tower.device)).last_hidden_state
        width = self.states_per_token
        missing = -states.shape[1] % width
        real = torch.nn.functional.pad(mask.to(states.device), (0, missing)).unflatten(1, (-1, width))
        states = torch.nn.functional.pad(states, (0, 0, 0, missing)).unflatten(1, (-1, width))
        return masked_mean(states.flatten(0, 1), real.flatten(0, 1)).unflatten(0, real.shape[:2]), real.any(2)

    def middles_s(self, tokens: int) -> torch.Tensor:
        """(tokens,) seconds of tokens' middles."""
        return (torch.arange(tokens) + 0.5) * (self.states_per_token * self.hop * STRIDE / SAMPLE_RATE)

    def heard(self, features: torch.Tensor, mask: torch.Tensor, times_s: torch.Tensor) -> torch.Tensor:
        """What is heard around moments: the mean of the projected tokens within HEARD_S, zero where there are none.

        Args:
            features: (B, L, hidden).
            mask: (B, L), True where a token is real.
            times_s: (B, T) seconds.

        Returns:
            (B, T, D).
        """
        mask = mask.to(self.tower.device)
        tokens = self.projector(features.to(self.tower.device)).masked_fill(~mask[..., None], 0.0)
        apart = (times_s.to(tokens.device)[..., None] - self.middles_s(tokens.shape[1]).to(tokens.device)).abs()
        near = ((apart <= HEARD_S) & mask[:, None]).to(tokens)
        return (near / near.sum(-1, keepdim=True).clamp(min=1)) @ tokens

    def embed(self, features: torch.Tensor, mask: torch.Tensor) -> Encoded:
        """Whole sounds: features (B, L, hidden), mask (B, L) -> Encoded."""
        times = self.middles_s(features.shape[1]).to(self.tower.device).expand(len(features), -1)
        pooled, sequence = self.pool(self.heard(features, mask, times), mask.to(self.tower.device), times)
        return Encoded(pooled, sequence, nested(pooled, self.widths))

    def forward(self, mel: torch.Tensor, mask: torch.Tensor) -> Encoded:
        """mel (B, bins, frames), mask (B, states) -> Encoded."""
        return self.embed(*self.features(mel, mask))

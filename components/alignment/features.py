"""What is computed once of a corpus: the towers' features of frames and sounds, log-mel of sounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from components.shared.encoders.audio import decode_audio
from components.shared.encoders.model import AlignmentModel
from components.shared.encoders.vision import to_pixels
from components.shared.learning.parts import Parts
from components.shared.runtime.reproducibility import cpu_threads

BATCH, SOUNDS = 256, 64
SILENCE = np.zeros(1, np.float32)
Wrapper = Callable[[Callable[[], Any]], Callable[[], Any]]


def frame_features(
    model: AlignmentModel, frames: np.ndarray, parts: Parts | None = None, fast: Wrapper = lambda call: call
) -> torch.Tensor:
    """Tower features of clips' frames: uint8 (N, T, S, S, 3) -> (N, T, K, hidden).

    Args:
        model: In evaluation mode.
        frames: Pixels.
        parts: Computes batches side by side where it is given.
        fast: Put around each batch's computation; its precision is that of the features.
    """
    flat, size = frames.reshape(-1, *frames.shape[2:]), model.vision.image_size

    def batch(start: int) -> torch.Tensor:
        with torch.no_grad():
            return fast(lambda: model.vision.frame_features(to_pixels(flat[start : start + BATCH], size)))().cpu()

    return torch.cat(in_batches(batch, len(flat), parts)).unflatten(0, frames.shape[:2])


def sound_features(
    model: AlignmentModel,
    mels: torch.Tensor,
    real: torch.Tensor,
    parts: Parts | None = None,
    fast: Wrapper = lambda call: call,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tower features of log-mels (N, bins, frames) and states' masks (N, states): (N, L, hidden), mask (N, L)."""
    assert model.audio is not None
    audio = model.audio

    def batch(start: int) -> tuple[torch.Tensor, torch.Tensor]:
        at = slice(start, start + BATCH)
        with torch.no_grad():
            features, mask = fast(lambda: audio.features(mels[at].float(), real[at]))()
            return features.cpu(), mask.cpu()

    made = in_batches(batch, len(mels), parts)
    return torch.cat([features for features, _ in made]), torch.cat([mask for _, mask in made])


def in_batches(batch: Callable[[int], Any], count: int, parts: Parts | None) -> list[Any]:
    """What the batches that begin at 0, BATCH ... give."""
    starts = range(0, count, BATCH)
    if parts is None:
        return [batch(start) for start in starts]
    return parts.run([lambda start=start: batch(start) for start in starts])  # type: ignore[misc]


def log_mels(model: AlignmentModel, sounds: Sequence[bytes | None]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-mel of sounds (N, bins, frames) in half precision and which states are sound (N, states).

    Half precision halves the memory; log-mel lies within a few units of zero, so it costs three decimal digits of it.
    """
    assert model.audio is not None
    audio = model.audio
    decode = lambda sound: decode_audio(sound) if sound else SILENCE

    def batch(start: int) -> tuple[torch.Tensor, torch.Tensor]:
        mel, mask = audio.mel([decode(sound) for sound in sounds[start : start + SOUNDS]])
        return mel.half(), mask

    with ThreadPoolExecutor(cpu_threads()) as threads:  # decoder and transform work outside Python's lock
        made = list(threads.map(batch, range(0, len(sounds), SOUNDS)))
    return torch.cat([mel for mel, _ in made]), torch.cat([mask for _, mask in made])

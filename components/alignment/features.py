"""What is computed once of a corpus: the frozen tower's features of frames, log-mel of sounds."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from components.shared.encoders.audio import decode_audio
from components.shared.encoders.model import AlignmentModel
from components.shared.encoders.vision import to_pixels
from components.shared.runtime.reproducibility import cpu_threads

BATCH = 256
SILENCE = np.zeros(1, np.float32)


@torch.inference_mode()
def frame_features(model: AlignmentModel, frames: np.ndarray) -> torch.Tensor:
    """Tower features of clips' frames: uint8 (N, T, S, S, 3) -> (N, T, K, hidden)."""
    flat = frames.reshape(-1, *frames.shape[2:])
    size = model.vision.image_size
    parts = [model.vision.frame_features(to_pixels(flat[i : i + BATCH], size)) for i in range(0, len(flat), BATCH)]
    return torch.cat([part.cpu() for part in parts]).unflatten(0, frames.shape[:2])


def log_mels(model: AlignmentModel, sounds: Sequence[bytes | None]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-mel of sounds (N, bins, frames) in half precision and which positions are sound (N, positions).

    Half precision halves the memory; log-mel lies between -1 and 2, so it costs three decimal digits of it.
    """
    assert model.audio is not None
    mels, masks = [], []
    decode = lambda sound: decode_audio(sound) if sound else SILENCE
    with ThreadPoolExecutor(cpu_threads()) as threads:  # the decoder works outside Python's lock
        for start in range(0, len(sounds), BATCH):
            mel, mask = model.audio.mel(list(threads.map(decode, sounds[start : start + BATCH])))
            mels.append(mel.half())
            masks.append(mask)
    return torch.cat(mels), torch.cat(masks)

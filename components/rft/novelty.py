"""Crops as the aligned vision encoder sees them: what the novelty part of curiosity compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np


def crop_embedder(encoder: Path) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """A function from crops, uint8 RGB (H, W, 3) of any sizes, to embeddings (number of crops, dim), not normalised.

    Args:
        encoder: The alignment step's artifact.
    """
    import torch

    from components.shared.encoders.model import load_model
    from components.shared.encoders.vision import to_pixels

    vision = load_model(encoder).vision.eval()

    def embed(images: Sequence[np.ndarray]) -> np.ndarray:
        pixels = torch.cat([to_pixels(image[None], vision.image_size) for image in images])
        with torch.no_grad():
            return vision.frames(vision.frame_features(pixels)).pooled.numpy()

    return embed

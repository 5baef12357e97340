"""Images as the vision tower takes them, without torchvision.

Role: the arithmetic of transformers' Qwen2VLImageProcessor (resize to a multiple of patch x merge, scale, normalise,
cut into patches in merge order, repeat in time) on batches of equal-sized images. Equality with the PIL form of that
processor is tested. Not guaranteed: bit equality after a resize, which is done by OpenCV.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch

from components.shared.runtime.errors import InputError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Patching:
    """How images are cut: sizes in pixels, `merge` patches a side make one token."""

    patch: int = 14
    merge: int = 2
    temporal: int = 2
    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after the resize: multiples of patch x merge with about the same aspect and enough pixels."""
        if min(height, width) < 1 or max(height, width) / min(height, width) > 200:
            raise InputError(f"an image of {height}x{width} pixels cannot be shown to the policy.")
        factor = self.patch * self.merge
        high, wide = (max(factor, round(side / factor) * factor) for side in (height, width))
        if high * wide > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            high, wide = (max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width))
        elif high * wide < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            high, wide = (math.ceil(side * grow / factor) * factor for side in (height, width))
        return high, wide

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of patches after the resize."""
        high, wide = self.target_size(height, width)
        return high // self.patch, wide // self.patch

    def num_tokens(self, height: int, width: int) -> int:
        """How many tokens an image becomes."""
        rows, columns = self.token_grid(height, width)
        return rows * columns

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of tokens."""
        rows, columns = self.grid(height, width)
        return rows // self.merge, columns // self.merge


def image_key(image: np.ndarray) -> bytes:
    """Digest of an image's pixels and shape."""
    return hashlib.blake2b(
        np.ascontiguousarray(image).data, digest_size=16, salt=str(image.shape).encode()[:16]
    ).digest()


def patchify(images: np.ndarray, patching: Patching) -> tuple[torch.Tensor, tuple[int, int]]:
    """Cut equal-sized images into normalised patches.

    Args:
        images: uint8 (N, height, width, 3) RGB.
        patching: Sizes.

    Returns:
        float32 (N, rows * columns, 3 * temporal * patch * patch) in merge order, and (rows, columns).
    """
    high, wide = patching.target_size(images.shape[1], images.shape[2])
    if (high, wide) != images.shape[1:3]:
        import cv2

        images = np.stack([cv2.resize(image, (wide, high), interpolation=cv2.INTER_CUBIC) for image in images])
    p, m = patching.patch, patching.merge
    rows, columns = high // p, wide // p
    pixels = torch.from_numpy(np.ascontiguousarray(images)).float().div_(255.0)
    pixels = (pixels - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    cut = pixels.view(len(images), rows // m, m, p, columns // m, m, p, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    cut = cut.unsqueeze(6).expand(*cut.shape[:6], patching.temporal, p, p)
    return cut.reshape(len(images), rows * columns, 3 * patching.temporal * p * p), (rows, columns)

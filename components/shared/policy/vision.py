"""Qwen2.5-VL's vision tower on batches of equal-sized images, and a cache of its frozen features.

Role: transformers runs the tower's attention image by image and window by window; `encode_equal` runs the same weights
with one batched attention for all windows of one size (tested equal to the tower's own forward). `FeatureCache` keeps
the features of images already seen, keyed by their bytes: while what sees them is frozen they never change, and
training and rollouts cost only the language model.
Not guaranteed: correctness of cached features after the tower's weights change; call `FeatureCache.clear`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from components.shared.policy.images import image_key

PIXELS = 256 * 112 * 112
"""Of the images that the tower sees at once: bounds its activations."""


def encode_equal(visual: Any, patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Features of equal-sized images.

    Args:
        visual: `Qwen2_5_VisionTransformerPretrainedModel`.
        patches: (N, rows * columns, channels) from `patchify`.
        grid: (rows, columns) of patches.

    Returns:
        (N, tokens, language width), tokens = rows * columns / merge**2.
    """
    from transformers.vision_utils import get_vision_position_ids

    images, length = patches.shape[:2]
    unit = visual.spatial_merge_size**2
    order, runs = windows(visual, grid)
    arranged = order.to(patches.device)
    thw = torch.tensor([[1, *grid]], device=patches.device)
    weight = visual.patch_embed.proj.weight
    states = functional.linear(patches.to(weight.dtype), weight.flatten(1))
    cos, sin = visual.rotary_pos_emb(states, get_vision_position_ids(thw, visual.spatial_merge_size))
    moved = len(runs) > 1 or runs[0][0] > 1  # one window is the image in its own order
    if moved:
        states = states.view(images, length // unit, unit, -1)[:, arranged].view(images, length, -1)
        cos, sin = (part.view(length // unit, unit, -1)[arranged].view(length, -1) for part in (cos, sin))
    cos, sin = cos.view(1, length, 1, -1), sin.view(1, length, 1, -1)
    for number, block in enumerate(visual.blocks):
        attention = block.attn
        qkv = attention.qkv(block.norm1(states)).view(images, length, 3, attention.num_heads, -1)
        query, key = (_rotate(part, cos, sin) for part in (qkv[:, :, 0], qkv[:, :, 1]))
        spans = [(1, length)] if number in visual.fullatt_block_indexes else runs
        states = states + attention.proj(_attend(query, key, qkv[:, :, 2], spans))
        states = states + block.mlp(block.norm2(states))
    merged = visual.merger(states.reshape(images * length, -1)).view(images, length // unit, -1)
    return merged[:, arranged.argsort()] if moved else merged


def windows(visual: Any, grid: tuple[int, int]) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """How an image's tokens are put in windows, windows of one size beside each other.

    Returns:
        Order of the tokens (tokens,), and (number of windows, patches in each) by size; windows at the right and the
        lower edge may be smaller than the others.
    """
    from transformers.vision_utils import get_vision_window_index

    merge = visual.spatial_merge_size
    index, ends = get_vision_window_index(
        torch.tensor([[1, *grid]]), merge, window_size=visual.window_size, patch_size=visual.patch_size
    )
    parts = index.split((ends.diff() // merge**2).tolist())
    sizes = sorted({len(part) for part in parts}, reverse=True)
    by_size = [[part for part in parts if len(part) == size] for size in sizes]
    order = torch.cat([part for alike in by_size for part in alike])
    return order, [(len(alike), len(alike[0]) * merge**2) for alike in by_size]


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spans: Sequence[tuple[int, int]]
) -> torch.Tensor:
    """Attention of (N, patches, heads, head_dim) within (number, patches) windows in a row: (N, patches, C)."""
    images = len(query)
    mixed, start = [], 0
    for number, size in spans:
        stop = start + number * size
        q, k, v = (
            part[:, start:stop].reshape(images * number, size, *part.shape[2:]).transpose(1, 2)
            for part in (query, key, value)
        )
        found = functional.scaled_dot_product_attention(q, k, v)
        mixed.append(found.transpose(1, 2).reshape(images, stop - start, -1))
        start = stop
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed, 1)


def _rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Axial rotary embedding of (N, patches, heads, head_dim)."""
    low, high = states.float().chunk(2, dim=-1)
    turned = torch.cat((-high, low), dim=-1)
    return (states.float() * cos.float() + turned * sin.float()).to(states.dtype)


class FeatureCache:
    """Features of images by their bytes; the least recently used leave when `max_bytes` is reached.

    Args:
        compute: Features of equal-sized images: uint8 (N, height, width, 3) -> (N, tokens, width).
        max_bytes: Most bytes kept.
    """

    def __init__(self, compute: Callable[[np.ndarray], torch.Tensor], max_bytes: int = 512 * 2**20) -> None:
        self.compute, self.max_bytes, self.size_bytes = compute, max_bytes, 0
        self.hits = self.misses = 0
        self._features: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._features)

    def clear(self) -> None:
        """Forget everything (after the tower's weights changed)."""
        self._features.clear()
        self.size_bytes = 0

    def encode(
        self, images: Sequence[np.ndarray], *, keys: Sequence[bytes] | None = None, batch: int = 256
    ) -> list[torch.Tensor]:
        """Features of each image, (tokens, width), computed where not known.

        Args:
            images: uint8 RGB (height, width, 3), sizes may differ.
            keys: Their digests (`image_key`) where they are known.
            batch: Images encoded at once, fewer where they are large.
        """
        if keys is None:
            keys = [image_key(image) for image in images]
        with self._lock:  # parts of a step look features up side by side
            return self._encode(keys, images, batch)

    def _encode(self, keys: Sequence[bytes], images: Sequence[np.ndarray], batch: int) -> list[torch.Tensor]:
        found = {key: self._features[key] for key in keys if key in self._features}
        missing = {key: image for key, image in zip(keys, images) if key not in found}
        self.hits += len(keys) - len(missing)
        self.misses += len(missing)
        by_shape: dict[tuple[int, ...], list[bytes]] = {}
        for key, image in missing.items():
            by_shape.setdefault(image.shape, []).append(key)
        for (height, width, _), group in by_shape.items():
            size = max(1, min(batch, PIXELS // (height * width)))
            for start in range(0, len(group), size):
                part = group[start : start + size]
                with torch.no_grad():
                    features = self.compute(np.stack([missing[key] for key in part]))
                for key, feature in zip(part, features):
                    found[key] = self._keep(key, feature.clone())
        for key in keys:
            if key in self._features:
                self._features.move_to_end(key)
        return [found[key] for key in keys]

    def _keep(self, key: bytes, feature: torch.Tensor) -> torch.Tensor:
        self._features[key] = feature
        self.size_bytes += feature.nelement() * feature.element_size()
        while self.size_bytes > self.max_bytes and len(self._features) > 1:
            _, old = self._features.popitem(last=False)
            self.size_bytes -= old.nelement() * old.element_size()
        return feature

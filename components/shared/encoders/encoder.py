"""The aligned encoder as others use it: arrays in, L2-normalised float32 arrays out.

It serves retrieval in the experience buffer and the novelty part of the curiosity reward. `load_encoder(path)` reads
the alignment step's artifact. One caller at a time; no gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from components.shared.encoders.matryoshka import Encoded
from components.shared.encoders.model import WEIGHTS, AlignmentModel, load_model
from components.shared.encoders.vision import to_pixels
from components.shared.runtime.artifacts import sha256_file

Embeddings = dict[int, np.ndarray]
"""width -> rows of length one, float32."""


class Encoder:
    """Frozen alignment model.

    Attributes:
        digest: sha256 of the weights file; part of every key under which an embedding is kept.
    """

    def __init__(self, model: AlignmentModel, digest: str) -> None:
        self.model, self.digest = model.eval(), digest

    @property
    def widths(self) -> tuple[int, ...]:
        """Matryoshka widths, ascending; the last is the full width."""
        return self.model.config.widths

    @torch.inference_mode()
    def embed_clip(self, view_frames: np.ndarray, frame_times_s: Sequence[float]) -> Embeddings:
        """One clip: uint8 RGB (T, H, W, 3) and its T times in seconds -> width -> (width,)."""
        return {width: rows[0] for width, rows in self.embed_clips([(view_frames, frame_times_s)]).items()}

    @torch.inference_mode()
    def embed_clips(self, clips: Iterable[tuple[np.ndarray, Sequence[float]]]) -> Embeddings:
        """Several clips, of equal or different numbers of frames -> width -> (N, width)."""
        rows: dict[int, list[np.ndarray]] = {width: [] for width in self.widths}
        for frames, times_s in clips:
            if len(frames) != len(times_s):
                raise ValueError(f"{len(frames)} frames came with {len(times_s)} times.")
            pixels = to_pixels(frames, self.model.vision.image_size)[None]
            encoded = self.model.vision(pixels, torch.tensor([list(times_s)], dtype=torch.float32))
            for width in self.widths:
                rows[width].append(encoded.mrl[width][0].numpy())
        return {width: np.stack(found) if found else np.zeros((0, width), np.float32) for width, found in rows.items()}

    @torch.inference_mode()
    def embed_frames(self, frames: np.ndarray) -> Embeddings:
        """Single pictures (crops, too): uint8 RGB (N, H, W, 3) -> width -> (N, width)."""
        pixels = to_pixels(frames, self.model.vision.image_size)
        return as_arrays(self.model.vision.frames(self.model.vision.frame_features(pixels)))

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str]) -> Embeddings:
        """Texts -> width -> (N, width)."""
        return as_arrays(self.model.text(texts))


def as_arrays(encoded: Encoded) -> Embeddings:
    """The Matryoshka embeddings as NumPy arrays."""
    return {width: rows.numpy() for width, rows in encoded.mrl.items()}


def load_encoder(path: Path) -> Encoder:
    """Read the alignment step's artifact.

    Raises:
        ArtifactError: missing, of another format or damaged.
    """
    return Encoder(load_model(path), sha256_file(path / WEIGHTS))

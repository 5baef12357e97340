"""Novelty by the real aligned encoder (random weights): the step reads it only where novelty is paid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.rft.config import CuriosityConfig, RewardConfig, RftConfig
from components.rft.novelty import crop_embedder
from components.rft.train import build_novelty
from components.shared.encoders.config import EncoderConfig
from components.shared.encoders.model import build_model


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    build_model(EncoderConfig(), ["picking items", "closing the box"]).save(folder)
    return folder


def test_equal_crops_embed_equally_and_others_do_not(encoder: Path) -> None:
    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, 255, (112, 112, 3), dtype=np.uint8) for _ in range(2))
    wide = rng.integers(0, 255, (40, 90, 3), dtype=np.uint8)
    embedded = crop_embedder(encoder)([one, other, one, wide])
    assert embedded.shape[0] == 4
    assert np.array_equal(embedded[0], embedded[2])
    assert not np.allclose(embedded[0], embedded[1])


def test_the_encoder_is_opened_only_where_novelty_is_paid(encoder: Path, tmp_path: Path) -> None:
    assert build_novelty(RftConfig(), tmp_path / "nowhere") is None
    paid: Any = RftConfig(rewards=RewardConfig(constants=CuriosityConfig(novelty_weight=0.1, novelty_memory=7)))
    novelty = build_novelty(paid, encoder)
    assert novelty is not None
    with pytest.raises(ValueError, match="encoder"):
        build_novelty(paid, tmp_path / "encoder-that-is-not-there")

"""Recall both ways on cases worked out by hand, and chance against simulation."""

import numpy as np
import pytest

from components.shared.encoders.retrieval import chance_at, hits_at


def recall_at(items, texts, caption, ks):
    hits = hits_at(items, texts, caption, ks)
    return {way: {k: float(found.mean()) for k, found in by_k.items()} for way, by_k in hits.items()}


def test_by_hand():
    texts = np.eye(3)
    items = np.array([[1, 0, 0], [0, 1, 0], [0, 0.9, 0.1], [0, 0, 1]], dtype=float)
    got = recall_at(items, texts, np.array([0, 1, 2, 2]), (1, 2))
    assert got["there"] == {1: 0.75, 2: 1.0}  # the third item points at text 1
    assert got["back"] == {1: 1.0, 2: 1.0}


def test_a_collapsed_encoder_scores_nothing():
    got = recall_at(np.ones((6, 2)), np.ones((3, 2)), np.array([0, 1, 2, 0, 1, 2]), (1, 2))
    assert got["there"] == {1: 0.0, 2: 0.0}
    assert got["back"] == {1: 0.0, 2: 0.0}


def test_chance_is_what_random_embeddings_give():
    rng = np.random.default_rng(0)
    caption = np.array([0] * 12 + [1] * 5 + [2] * 3 + [3] * 20)
    runs = [recall_at(rng.normal(size=(40, 8)), rng.normal(size=(6, 8)), caption, (1, 5)) for _ in range(1500)]
    chance = chance_at(caption, 6, (1, 5))
    for way in ("there", "back"):
        for k in (1, 5):
            assert np.mean([run[way][k] for run in runs]) == pytest.approx(chance[way][k], abs=0.02)

import itertools

import numpy as np
import torch

from components.base_model.vision_stage import Frames, frame_accuracy, jitter, one_cycle, standardise
from components.shared.policy.tiny import TinySize, build_tiny

SMALL = TinySize(
    hidden=64, layers=1, heads=2, kv_heads=1, intermediate=64, vision_hidden=32, vision_depth=1, vision_heads=2
)


def frames(number=40):
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 255, (1, 56, 56, 3), dtype=np.uint8) for _ in range(number)]
    where = np.array([(index, 0) for index in range(number)])
    return Frames(pixels, where, rng.integers(0, 4, number), np.zeros(number, np.float32), 3)


def test_standardised_features_are_centred_with_norm_one_and_the_head_says_the_same():
    policy, data = build_tiny(("A", "B", "C"), num_frames=1, size=SMALL, vocabulary=300), frames()
    head = torch.nn.Linear(64, 5)
    images = [data.pixels[clip][frame] for clip, frame in data.where]
    visual = policy.model.model.visual
    with torch.no_grad():
        visual.merger.mlp[-1].bias.add_(3.0)
        before = head(torch.cat(policy.features.encode(images)))
        accuracy = frame_accuracy(policy, head, data, 40, 0)
        standardise(policy, head, data, seed=0)
        features = torch.cat(policy.features.encode(images))
    assert torch.allclose(features.mean(0), torch.zeros(64), atol=1e-5)
    assert torch.allclose(features.norm(dim=1).mean(), torch.tensor(1.0), atol=1e-4)
    assert torch.allclose(head(features), before, atol=1e-3)
    assert frame_accuracy(policy, head, data, 40, 0) == accuracy


def test_frames_that_are_not_scored_do_not_count():
    policy, data = build_tiny(("A", "B", "C"), num_frames=1, size=SMALL, vocabulary=300), frames()
    data.labels[:] = 3
    data.labels[:10] = 2
    head = torch.nn.Linear(64, 5)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 0.0, 9.0, 0.0, 0.0]))
    assert frame_accuracy(policy, head, data, 40, 0) == 1.0


def test_the_learning_rate_rises_then_falls():
    rates = [one_cycle(step, 100, 1.0) for step in range(100)]
    assert rates.index(max(rates)) in (9, 10)
    assert rates[0] == 0.1
    assert 0.02 <= rates[-1] < 0.03
    assert all(one > other for one, other in itertools.pairwise(rates[10:]))


def test_jitter_keeps_shape_and_moves_pixels():
    images = np.random.default_rng(0).integers(0, 255, (8, 56, 56, 3), dtype=np.uint8)
    moved = jitter(images, np.random.default_rng(1))
    assert (moved.shape, moved.dtype) == (images.shape, np.uint8)
    assert not np.array_equal(moved, images)
    assert abs(float(moved.mean()) - float(images.mean())) < 20

import numpy as np
import pytest
import torch

from components.shared.policy.images import Patching, patchify
from components.shared.policy.vision import FeatureCache, encode_equal
from components.shared.runtime.errors import InputError


@pytest.mark.parametrize("merge, size", [(4, (56, 56)), (4, (112, 112)), (2, (84, 140))])
def test_patches_are_those_of_the_pil_processor(merge, size):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    images = np.random.default_rng(0).integers(0, 255, (2, *size, 3), dtype=np.uint8)
    processor = Qwen2VLImageProcessorPil(
        patch_size=14, merge_size=merge, temporal_patch_size=2, size={"shortest_edge": 3136, "longest_edge": 10**6}
    )
    expected = processor(list(images), return_tensors="pt")
    patches, grid = patchify(images, Patching(merge=merge))
    assert tuple(expected["image_grid_thw"][0].tolist()) == (1, *grid)
    assert torch.allclose(patches.flatten(0, 1), expected["pixel_values"], atol=1e-5)


@pytest.mark.parametrize(
    "size, expected", [((56, 56), (56, 56)), ((10, 10), (56, 56)), ((100, 50), (112, 56)), ((5000, 5000), (952, 952))]
)
def test_sizes_are_multiples_within_the_limits(size, expected):
    patching = Patching(merge=4, max_pixels=1_000_000)
    assert patching.target_size(*size) == expected


def test_an_absurd_shape_is_refused():
    with pytest.raises(InputError, match="cannot be shown"):
        Patching().target_size(1, 1000)


@pytest.mark.parametrize("side", [56, 112])
def test_batched_attention_equals_the_towers_own_forward(shared_policy, side):
    images = np.random.default_rng(1).integers(0, 255, (3, side, side, 3), dtype=np.uint8)
    visual, patching = shared_policy.model.model.visual, shared_policy.patching
    patches, grid = patchify(images, patching)
    with torch.no_grad():
        own = visual(patches.flatten(0, 1), grid_thw=torch.tensor([[1, *grid]] * 3)).pooler_output
        ours = encode_equal(visual, patches, grid)
    assert torch.allclose(ours.flatten(0, 1), own, atol=1e-5)


@pytest.mark.parametrize("size", [(168, 168), (224, 112), (280, 168), (168, 392), (56, 112)])
def test_larger_images_than_a_window_are_attended_window_by_window(make, size, monkeypatch):
    """Windows are two tokens wide here; at the right and the lower edge they are smaller."""
    policy = make("native")
    visual, patching = policy.model.model.visual, policy.patching
    monkeypatch.setattr(visual, "fullatt_block_indexes", [1])
    images = np.random.default_rng(1).integers(0, 255, (2, *size, 3), dtype=np.uint8)
    patches, grid = patchify(images, patching)
    with torch.no_grad():
        own = visual(patches.flatten(0, 1), grid_thw=torch.tensor([[1, *grid]] * 2)).pooler_output
        ours = encode_equal(visual, patches, grid)
        whole = encode_equal(visual, patches[:1], grid)
    assert ours.shape[:2] == (2, grid[0] * grid[1] // 16)
    assert torch.allclose(ours.flatten(0, 1), own, atol=1e-5)
    assert torch.allclose(ours[:1], whole, atol=1e-5)


def test_the_cache_returns_what_it_computed_and_computes_once(shared_policy):
    images = list(np.random.default_rng(2).integers(0, 255, (3, 56, 56, 3), dtype=np.uint8))
    cache = FeatureCache(shared_policy.encode_images)
    first = cache.encode([*images, images[0]])
    again = cache.encode(images)
    assert (cache.misses, cache.hits) == (3, 1 + 3)
    assert len(cache) == 3
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert torch.equal(first[0], first[3])


def test_the_cache_stays_within_its_bytes(shared_policy):
    images = list(np.random.default_rng(3).integers(0, 255, (6, 56, 56, 3), dtype=np.uint8))
    one = 4 * shared_policy.model.config.text_config.hidden_size
    cache = FeatureCache(shared_policy.encode_images, max_bytes=2 * one)
    features = cache.encode(images)
    assert len(features) == 6
    assert len(cache) == 2
    assert cache.size_bytes == 2 * one
    cache.clear()
    assert (len(cache), cache.size_bytes) == (0, 0)

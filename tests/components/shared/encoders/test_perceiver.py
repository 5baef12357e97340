"""Padding is ignored exactly, time matters, and pooling starts as the mean."""

import pytest
import torch

from components.shared.encoders.perceiver import PerceiverResampler, Pool, masked_mean


@pytest.fixture
def resampler() -> PerceiverResampler:
    torch.manual_seed(0)
    return PerceiverResampler(16, num_latents=3, depth=2, heads=4).eval()


def test_padding_is_ignored_exactly(resampler):
    media, mask = torch.randn(2, 5, 16), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    times = torch.arange(5.0).expand(2, -1)
    clean = resampler(media, mask, times)
    dirty = media.clone()
    dirty[0, 3:] = torch.tensor([float("nan"), 1e9])[:, None]
    assert torch.equal(resampler(dirty, mask, times), clean)
    alone = resampler(media[:1, :3], None, times[:1, :3])
    assert torch.allclose(alone[0], clean[0], atol=1e-6)


def test_padding_has_no_gradient_and_leaves_the_others_alone(resampler):
    """Junk in padded tokens and times changes no bit of any gradient, and gets none."""
    media, mask = torch.randn(2, 5, 16), torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]], dtype=torch.bool)
    times = torch.arange(5.0).expand(2, -1).clone()

    def gradients(junk: float) -> list[torch.Tensor]:
        seen = media.masked_fill(~mask[..., None], junk).requires_grad_()
        out = resampler(seen, mask, times.masked_fill(~mask, junk)).square().sum()
        return list(torch.autograd.grad(out, (seen, *resampler.parameters())))

    clean, dirty = gradients(0.0), gradients(1e6)
    assert all(torch.equal(one, other) for one, other in zip(clean, dirty, strict=True))
    assert torch.equal(clean[0].abs().sum(-1) > 0, mask)


def test_a_row_without_any_real_token_depends_on_the_latents_alone(resampler):
    """Whatever else stands there; and it does not disturb its neighbours."""
    mask = torch.tensor([[0, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    first, second = (resampler(torch.randn(3, 3, 16), mask, torch.rand(3, 3)) for _ in range(2))
    assert bool(first.isfinite().all())
    assert torch.equal(first[0], first[2]) and torch.equal(first[0], second[0])
    assert not torch.allclose(first[1], second[1], atol=1e-3)


def test_real_tokens_and_their_times_matter(resampler):
    media, times = torch.randn(1, 4, 16), torch.arange(4.0)[None]
    base = resampler(media, None, times)
    assert not torch.allclose(resampler(media.flip(1), None, times), base, atol=1e-4)
    assert torch.allclose(resampler(media.flip(1), None, times.flip(1)), base, atol=1e-5)


def test_masked_mean_by_hand():
    tokens = torch.tensor([[[1.0], [3.0], [float("nan")]]])
    assert masked_mean(tokens, torch.tensor([[True, True, False]])).item() == 2.0
    assert masked_mean(tokens, torch.tensor([[False, False, False]])).item() == 0.0


@pytest.mark.parametrize(("kind", "length"), [("mean", 6), ("attention", 6), ("perceiver", 3)])
def test_pool_starts_as_the_mean_and_learns(kind, length):
    torch.manual_seed(0)
    pool = Pool(kind, 16, num_latents=3, depth=1, heads=4)
    tokens, times = torch.randn(2, 6, 16), torch.arange(6.0).expand(2, -1)
    pooled, sequence = pool(tokens, None, times)
    assert torch.allclose(pooled, tokens.mean(1), atol=1e-6)
    assert sequence.shape == (2, length, 16)
    if kind != "mean":
        pooled.square().sum().backward()
        assert pool.mix.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["mean", "attention", "perceiver"])
def test_pooling_ignores_padding_exactly(kind):
    torch.manual_seed(0)
    pool = Pool(kind, 16, num_latents=3, depth=1, heads=4)
    if pool.mix is not None:
        torch.nn.init.eye_(pool.mix.weight)
    tokens, times = torch.randn(2, 6, 16), torch.arange(6.0).expand(2, -1)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)
    dirty = tokens.clone()
    dirty[0, 4:] = torch.tensor([float("nan"), -1e9])[:, None]
    clean, found = pool(tokens, mask, times), pool(dirty, mask, times)
    assert all(torch.equal(one, other) for one, other in zip(clean, found, strict=True))
    shorter = pool(tokens[:1, :4], None, times[:1, :4])[0]
    assert torch.allclose(shorter[0], clean[0][0], atol=1e-6)


def test_attention_pooling_weighs_tokens():
    torch.manual_seed(0)
    pool = Pool("attention", 16, num_latents=3, depth=1, heads=4)
    torch.nn.init.eye_(pool.mix.weight)
    tokens = torch.randn(1, 6, 16)
    learned = pool(tokens)[0] - tokens.mean(1)
    doubled = pool(torch.cat([tokens, tokens[:, :1]], 1))[0] - torch.cat([tokens, tokens[:, :1]], 1).mean(1)
    assert not torch.allclose(learned, doubled, atol=1e-4)

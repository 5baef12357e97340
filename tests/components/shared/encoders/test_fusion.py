"""Fusion: shapes, missing modalities never reach the result, and formulas by hand."""

import pytest
import torch

from components.shared.encoders.fusion import Fusion
from components.shared.encoders.matryoshka import Encoded, nested

KINDS = ("concat", "cross", "gated")
NAMES = ("vision", "audio", "text")
DIM, WIDTHS = 8, (4, 8)


def encoded(seed, batch=3, length=5):
    generator = torch.Generator().manual_seed(seed)
    pooled, sequence = (
        torch.randn(batch, DIM, generator=generator),
        torch.randn(batch, length, DIM, generator=generator),
    )
    return Encoded(pooled, sequence, nested(pooled, WIDTHS))


def fusion(kind):
    torch.manual_seed(0)
    return Fusion(kind, NAMES, DIM, heads=2, widths=WIDTHS).eval()


@pytest.fixture
def samples():
    return {name: encoded(index, length=3 + index) for index, name in enumerate(NAMES)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_modality_reaches_the_result(kind, samples):
    model = fusion(kind)
    before = model(samples)
    assert before.pooled.shape == (3, DIM)
    assert {width: rows.shape for width, rows in before.mrl.items()} == {4: (3, 4), 8: (3, 8)}
    assert torch.allclose(before.mrl[4].norm(dim=-1), torch.ones(3))
    for name in NAMES:
        changed = model(samples | {name: encoded(9, length=samples[name].sequence.shape[1])}).pooled
        assert not torch.allclose(changed, before.pooled, atol=1e-3), name


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_missing_modality_holds_does_not_matter(kind, samples):
    model = fusion(kind)
    missing = {"audio": torch.tensor([True, False, True])}
    before = model(samples, missing).pooled
    audio = samples["audio"]
    audio.pooled[1], audio.sequence[1] = float("nan"), float("inf")
    assert torch.equal(model(samples, missing).pooled, before)
    assert torch.isfinite(before).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_modality_absent_as_a_whole_is_one_missing_everywhere(kind, samples):
    model = fusion(kind)
    nowhere = model(samples, {"audio": torch.zeros(3, dtype=torch.bool)}).pooled
    assert torch.allclose(model({n: s for n, s in samples.items() if n != "audio"}).pooled, nowhere, atol=1e-6)


def test_concat_by_hand(samples):
    model = fusion("concat")
    stacked = torch.cat([samples[name].pooled for name in NAMES], dim=1)
    assert torch.allclose(model(samples).pooled, stacked @ model.mix.weight.T + model.mix.bias, atol=1e-5)


def test_gated_by_hand(samples):
    model = fusion("gated")
    scores = torch.stack([samples[name].pooled @ model.gate[index] for index, name in enumerate(NAMES)], 1)
    gates = scores.exp() / scores.exp().sum(1, keepdim=True)
    wanted = sum(gates[:, i, None] * model.maps[i](samples[name].pooled) for i, name in enumerate(NAMES))
    assert torch.allclose(model(samples).pooled, wanted, atol=1e-5)
    alone = model({"audio": samples["audio"]}).pooled
    assert torch.allclose(alone, model.maps[1](samples["audio"].pooled), atol=1e-6)


def test_cross_asks_with_the_first_modality_that_is_there(samples):
    model = fusion("cross")
    blind = {"vision": torch.tensor([True, False, True])}
    got = model(samples, blind).pooled
    rest = {name: samples[name] for name in ("audio", "text")}
    assert torch.allclose(got[1], model(rest).pooled[1], atol=1e-5)
    assert torch.allclose(got[0], model(samples).pooled[0], atol=1e-5)


def test_a_sample_with_nothing_is_an_error(samples):
    nothing = {name: torch.tensor([True, False, True]) for name in NAMES}
    with pytest.raises(ValueError, match="none of the modalities"):
        fusion("gated")(samples, nothing)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="concat, cross, gated"):
        Fusion("sum", NAMES, DIM, heads=2, widths=WIDTHS)


@pytest.mark.parametrize("kind", KINDS)
def test_all_weights_learn(kind, samples):
    model = fusion(kind)
    model(samples).pooled.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())

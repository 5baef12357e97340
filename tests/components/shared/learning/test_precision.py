import pytest
import torch
from torch.nn import functional

from components.shared.learning.precision import multiplies_bfloat16, products_in


@pytest.mark.parametrize("precision, rounds", [("float32", False), ("bfloat16", True), ("auto", multiplies_bfloat16())])
def test_linear_layers_multiply_rounded_numbers_and_give_float32(precision, rounds):
    fine = 1 + 2.0**-12  # bfloat16 has 8 bits: it is 1 there
    layer = torch.nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        layer.weight.fill_(fine)
    with products_in(precision):
        given = layer(torch.ones(3, 4))
    assert given.dtype == torch.float32
    assert float(given[0, 0].detach()) == (4.0 if rounds else 4 * fine)


def test_gradients_are_float32_and_close_to_the_exact_ones():
    generator = torch.Generator().manual_seed(0)
    layer, given = torch.nn.Linear(32, 16), torch.randn(64, 32, generator=generator, requires_grad=True)
    wanted = torch.autograd.grad(layer(given).square().mean(), [given, *layer.parameters()])
    with products_in("bfloat16"):
        found = torch.autograd.grad(layer(given).square().mean(), [given, *layer.parameters()])
    for one, other in zip(wanted, found, strict=True):
        assert other.dtype == torch.float32 and not torch.equal(one, other)
        assert (one - other).norm() < 0.01 * one.norm()


def test_the_bias_is_not_rounded_and_keywords_work():
    bias = torch.tensor([1 + 2.0**-12])
    with products_in("bfloat16"):
        assert torch.equal(functional.linear(torch.zeros(1, 2), weight=torch.zeros(1, 2), bias=bias), bias[None])


def test_other_products_stay_exact():
    one = torch.full((2, 2), 1 + 2.0**-12)
    with products_in("bfloat16"):
        assert torch.equal(one @ one, torch.full((2, 2), 2 * (1 + 2.0**-12) ** 2))


def test_off_the_cpu_auto_changes_nothing():
    one = torch.full((1, 1), 1 + 2.0**-12)
    with products_in("auto", "cuda"):
        assert torch.equal(functional.linear(one, torch.ones(1, 1)), one)

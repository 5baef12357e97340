"""InfoNCE and the Matryoshka sum against float64 formulas written out loop by loop, and hand-computed cases."""

import math

import numpy as np
import pytest
import torch

from components.shared.encoders.losses import (
    class_infonce,
    class_loss,
    contrastive_loss,
    gather_rows,
    symmetric_infonce,
)
from components.shared.encoders.matryoshka import nested


def unit(rows: int, width: int, seed: int) -> torch.Tensor:
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True)


def reference(a: np.ndarray, b: np.ndarray, scale: float, groups: list[int]) -> float:
    total = 0.0
    for first, second in ((a, b), (b, a)):
        for i in range(len(a)):
            logits = [scale * float(first[i] @ second[j]) for j in range(len(a))]
            log_z = math.log(sum(math.exp(x) for x in logits))
            positives = [j for j in range(len(a)) if groups[j] == groups[i]]
            total += sum(log_z - logits[j] for j in positives) / len(positives) / len(a)
    return total / 2


@pytest.mark.parametrize("groups", [None, [0, 1, 0, 2, 1]], ids=["every row its own", "shared captions"])
def test_infonce_equals_the_formula(groups):
    a, b = unit(5, 7, 1), unit(5, 7, 2)
    got = symmetric_infonce(a, b, torch.tensor(math.log(9.0)), None if groups is None else torch.tensor(groups))
    assert got.item() == pytest.approx(reference(a.numpy(), b.numpy(), 9.0, groups or list(range(5))), rel=1e-12)


def test_infonce_by_hand():
    """Two orthogonal rows that match perfectly at scale s: loss = log(1 + exp(-s)) both ways."""
    eye = torch.eye(2, dtype=torch.float64)
    assert symmetric_infonce(eye, eye, torch.tensor(math.log(3.0))).item() == pytest.approx(math.log1p(math.exp(-3)))


def test_infonce_of_equal_captions_by_hand():
    """Both rows have one caption, a = b = identity: each row wants half of each column, log(1 + exp(s)) - s / 2.

    Taken for negatives of each other they would give log(1 + exp(-s)), and would be pushed apart for ever.
    """
    eye, same = torch.eye(2, dtype=torch.float64), torch.tensor([4, 4])
    at = lambda a: symmetric_infonce(a, eye, torch.tensor(math.log(3.0)), same).item()
    assert at(eye) == pytest.approx(math.log1p(math.exp(3)) - 1.5)
    middle = torch.full((2, 2), 2**-0.5, dtype=torch.float64)
    assert at(middle) == pytest.approx(math.log(2)), "equal shares: nothing is lower"


def test_an_equal_caption_attracts_and_another_repels():
    """By hand, at equal similarities: d loss / d logit = (1/3 - target) / 3, and half of it from either direction."""
    a, b = torch.eye(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    symmetric_infonce(a, b, torch.tensor(0.0), torch.tensor([0, 0, 1])).backward()  # logits are b transposed
    third, half = 1 / 3, 1 / 2
    wanted = [[third - half, third - half, third], [third - half, third - half, third], [third, third, third - 1]]
    assert torch.allclose(b.grad, torch.tensor(wanted, dtype=torch.float64) / 3)


def test_scale_is_clamped_at_100():
    a, b = unit(4, 3, 3), unit(4, 3, 4)
    at = lambda scale: symmetric_infonce(a, b, torch.tensor(math.log(scale), dtype=torch.float64)).item()
    assert at(500.0) == pytest.approx(at(100.0))
    assert at(500.0) != pytest.approx(at(90.0))


def test_gradients():
    a, b = unit(4, 3, 5).requires_grad_(), unit(4, 3, 6).requires_grad_()
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    groups = torch.tensor([0, 0, 1, 2])
    assert torch.autograd.gradcheck(lambda x, y, s: symmetric_infonce(x, y, s, groups), (a, b, scale))


RAW = {name: torch.randn(6, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
       for seed, name in enumerate(("vision", "text", "audio"))}  # fmt: skip
CAPTIONS, HEARD, WIDTHS = [0, 1, 0, 2, 1, 3], [True, True, True, False, True, False], (2, 3, 8)


def whole(raw: dict[str, torch.Tensor], scale: torch.Tensor) -> torch.Tensor:
    """Everything at once: three modalities, shared captions, silent rows, a weight, three widths."""
    return contrastive_loss(
        {name: nested(x, WIDTHS) for name, x in raw.items()},
        scale,
        groups=torch.tensor(CAPTIONS),
        present={"audio": torch.tensor(HEARD)},
        weights={"audio": 0.3},
        w_clip=0.7,
        w_mrl=0.4,
    )


def test_the_whole_loss_equals_the_formula_from_raw_vectors():
    """Truncate, normalise, contrast, average over pairs by weight, sum over widths: in loops, with NumPy only."""

    def at(width: int) -> float:
        total = weights = 0.0
        for first, second, weight in (("vision", "text", 1.0), ("vision", "audio", 0.3), ("text", "audio", 0.3)):
            kept = [row for row in range(6) if HEARD[row] or "audio" not in (first, second)]
            cut = [RAW[name].numpy()[kept, :width] for name in (first, second)]
            a, b = (rows / np.sqrt((rows**2).sum(1, keepdims=True)) for rows in cut)
            total += weight * reference(a, b, 6.0, [CAPTIONS[row] for row in kept])
            weights += weight
        return total / weights

    got = whole(RAW, torch.tensor(math.log(6.0), dtype=torch.float64)).item()
    assert got == pytest.approx(0.7 * at(8) + 0.4 * (at(2) + at(3) + at(8)), rel=1e-12)


def test_gradients_of_the_whole_loss():
    """Through truncation and normalisation too; a silent row's sound has no gradient at all."""
    scale = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    leaves = [x.clone().requires_grad_() for x in RAW.values()]
    assert torch.autograd.gradcheck(lambda s, *x: whole(dict(zip(RAW, x, strict=True)), s), (scale, *leaves))
    raw = dict(zip(RAW, leaves, strict=True))
    (gradient,) = torch.autograd.grad(whole(raw, scale), raw["audio"])
    assert [bool(row.any()) for row in gradient] == HEARD


def test_gradients_of_the_class_loss():
    items, classes = unit(5, 4, 1).requires_grad_(), unit(3, 4, 2).requires_grad_()
    scale, labels = torch.tensor(0.8, dtype=torch.float64, requires_grad=True), torch.tensor([0, 2, 2, 0, 1])

    def loss(x: torch.Tensor, y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return class_loss(nested(x, (2, 4)), nested(y, (2, 4)), labels, s, w_clip=0.7, w_mrl=0.3)

    assert torch.autograd.gradcheck(loss, (items, classes, scale))


def test_nested_truncates_before_normalising():
    x = torch.tensor([[3.0, 4.0, 12.0]])
    got = nested(x, (2, 3))
    assert torch.allclose(got[2], torch.tensor([[0.6, 0.8]]))
    assert torch.allclose(got[3], x / 13)
    with pytest.raises(ValueError, match="width 4"):
        nested(x, (2, 4))


def test_matryoshka_sum_over_every_pair():
    raw = {name: unit(6, 8, seed) for name, seed in (("vision", 1), ("text", 2), ("audio", 3))}
    mrl = {name: nested(x, (2, 8)) for name, x in raw.items()}
    scale = torch.tensor(math.log(5.0), dtype=torch.float64)

    def at(width: int) -> float:
        pairs = (("audio", "text"), ("audio", "vision"), ("text", "vision"))
        return sum(symmetric_infonce(mrl[a][width], mrl[b][width], scale).item() for a, b in pairs) / 3

    got = contrastive_loss(mrl, scale, w_clip=0.7, w_mrl=0.3).item()
    assert got == pytest.approx(0.7 * at(8) + 0.3 * (at(2) + at(8)), rel=1e-12)


def test_missing_rows_are_left_out_of_their_pairs():
    mrl = {name: nested(unit(5, 4, seed), (4,)) for name, seed in (("vision", 1), ("text", 2), ("audio", 3))}
    here = torch.tensor([True, False, True, True, False])
    scale = torch.tensor(0.5, dtype=torch.float64)
    got = contrastive_loss(mrl, scale, present={"audio": here}, w_clip=1.0, w_mrl=0.0)
    va = symmetric_infonce(mrl["audio"][4][here], mrl["vision"][4][here], scale)
    ta = symmetric_infonce(mrl["audio"][4][here], mrl["text"][4][here], scale)
    vt = symmetric_infonce(mrl["text"][4], mrl["vision"][4], scale)
    assert got.item() == pytest.approx(((va + ta + vt) / 3).item())


def test_nothing_to_contrast_is_an_error():
    mrl = {"vision": nested(unit(3, 4, 1), (4,)), "text": nested(unit(3, 4, 2), (4,))}
    with pytest.raises(ValueError, match="nothing to contrast"):
        contrastive_loss(mrl, torch.tensor(0.0), present={"text": torch.tensor([True, False, False])})


def test_gather_alone_is_identity():
    x = unit(3, 4, 1)
    assert gather_rows(x) is x


def test_few_classes_cost_less_and_give_the_same_loss_and_gradient():
    items, classes = unit(9, 4, 1).requires_grad_(), unit(5, 4, 2).requires_grad_()
    labels = torch.tensor([0, 3, 3, 1, 0, 3, 4, 0, 1])  # class 2 does not occur
    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    whole = symmetric_infonce(items, classes[labels], scale, labels)
    short = class_infonce(items, classes, labels, scale)
    assert short.item() == pytest.approx(whole.item(), rel=1e-12)
    wanted = torch.autograd.grad(whole, (items, classes, scale))
    found = torch.autograd.grad(short, (items, classes, scale))
    assert all(torch.allclose(one, other, atol=1e-12) for one, other in zip(wanted, found, strict=True))


def test_the_class_loss_sums_widths_as_the_contrastive_loss_does():
    items, classes, labels = unit(6, 8, 1), unit(3, 8, 2), torch.tensor([0, 1, 1, 2, 0, 1])
    scale = torch.tensor(0.7, dtype=torch.float64)
    got = class_loss(nested(items, (2, 8)), nested(classes, (2, 8)), labels, scale, w_clip=0.7, w_mrl=0.3)
    pair = {"vision": nested(items, (2, 8)), "text": nested(classes[labels], (2, 8))}
    assert got.item() == pytest.approx(contrastive_loss(pair, scale, groups=labels, w_clip=0.7, w_mrl=0.3).item())


def test_a_weighted_modality_counts_less_in_the_mean_over_pairs():
    raw = {name: nested(unit(6, 8, seed), (8,)) for name, seed in (("vision", 1), ("text", 2), ("audio", 3))}
    scale = torch.tensor(0.4, dtype=torch.float64)
    pair = lambda a, b: symmetric_infonce(raw[a][8], raw[b][8], scale).item()
    wanted = (pair("text", "vision") + 0.25 * pair("audio", "vision") + 0.25 * pair("audio", "text")) / 1.5
    got = contrastive_loss(raw, scale, weights={"audio": 0.25}, w_clip=1, w_mrl=0).item()
    assert got == pytest.approx(wanted, rel=1e-12)

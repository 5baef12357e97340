"""The arithmetic of GRPO against hand-computed cases, float64 formulas written out in plain Python, and gradcheck."""

from __future__ import annotations

import math

import pytest
import torch

from components.shared.learning.grpo import decoupled_advantages, group_zscore, grpo_loss, k3


def test_zscore_by_hand() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 4.0, 4.0, 4.0], dtype=torch.float64)
    groups = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    advantages, live = group_zscore(rewards, groups)
    assert advantages.tolist() == [1.0, -1.0, -1.0, 1.0, 0.0, 0.0, 0.0]
    assert live.tolist() == [True, False]


def test_zscore_of_uneven_interleaved_groups_has_mean_zero_and_variance_one() -> None:
    torch.manual_seed(0)
    groups = torch.tensor([0, 1, 0, 2, 1, 2, 2, 0, 2, 1, 2])
    advantages, live = group_zscore(torch.rand(11, dtype=torch.float64), groups)
    assert live.all()
    for group in range(3):
        member = advantages[groups == group]
        assert member.mean().item() == pytest.approx(0, abs=1e-12)
        assert member.var(correction=0).item() == pytest.approx(1, abs=1e-9)


def test_one_rollout_groups_and_equal_rewards_give_exactly_zero() -> None:
    advantages, live = group_zscore(torch.tensor([0.1] * 3 + [7.0]), torch.tensor([0, 0, 0, 1]))
    assert advantages.tolist() == [0.0] * 4
    assert not live.any()


def test_each_reward_is_normalised_before_the_sum() -> None:
    """The GDPO property: a component of range 0.01 weighs as much as one of range 100."""
    groups = torch.zeros(4, dtype=torch.int64)
    rewards = {
        "large": torch.tensor([100.0, 0.0, 100.0, 0.0], dtype=torch.float64),
        "small": torch.tensor([0.01, 0.01, 0.0, 0.0], dtype=torch.float64),
    }
    advantages, alive = decoupled_advantages(rewards, {"large": 1.0, "small": 0.5}, groups)
    assert advantages.tolist() == pytest.approx([1.5, -0.5, 0.5, -1.5])
    assert alive.tolist() == [True]


def test_a_group_is_dead_only_where_no_weighted_component_has_spread() -> None:
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    rewards = {
        "task": torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0]),
        "format": torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 1.0]),
        "unpaid": torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 0.0]),
    }
    advantages, alive = decoupled_advantages(rewards, {"task": 1.0, "format": 0.2, "unpaid": 0.0}, groups)
    assert alive.tolist() == [True, True, False]
    assert advantages[4:].tolist() == [0.0, 0.0]


def test_k3_is_the_exact_divergence_in_expectation_and_never_negative() -> None:
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    s = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    estimate = k3(p.log(), s.log())
    assert (estimate >= 0).all()
    assert float((p * estimate).sum()) == pytest.approx(float((p * (p / s).log()).sum()))
    assert k3(p.log(), p.log()).tolist() == [0.0, 0.0, 0.0]


def reference_loss(logp, old, advantages, mask, low, high, ref, beta):  # type: ignore[no-untyped-def]
    """The formula in plain Python floats."""
    total, tokens = 0.0, 0
    for i, row in enumerate(logp):
        for t, value in enumerate(row):
            if not mask[i][t]:
                continue
            tokens += 1
            ratio = math.exp(value - old[i][t])
            bounded = min(max(ratio, 1 - low), 1 + high)
            term = -min(ratio * advantages[i], bounded * advantages[i])
            gap = ref[i][t] - value
            total += term + beta * (math.exp(gap) - gap - 1)
    return total / tokens


@pytest.mark.parametrize("seed", range(5))
def test_loss_equals_the_formula_in_float64(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logp, old, ref = (-torch.rand(4, 7, generator=generator, dtype=torch.float64) for _ in range(3))
    advantages = torch.randn(4, generator=generator, dtype=torch.float64)
    mask = (torch.rand(4, 7, generator=generator) < 0.6).double()
    got = grpo_loss(logp, old, advantages, mask, clip_low=0.2, clip_high=0.28, reference=ref, kl_weight=0.3)
    want = reference_loss(*(x.tolist() for x in (logp, old, advantages, mask)), 0.2, 0.28, ref.tolist(), 0.3)
    assert float(got.loss) == pytest.approx(want, rel=1e-12)
    assert float(got.num_tokens) == float(mask.sum())


def test_first_epoch_gradient_is_the_plain_policy_gradient() -> None:
    """Where old = current the ratio is 1 and d loss / d logp = -A / T on learned tokens, 0 elsewhere."""
    logp = torch.tensor([[-1.0, -2.0], [-0.5, -3.0]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    grpo_loss(logp, logp.detach(), torch.tensor([2.0, -1.0], dtype=torch.float64), mask).loss.backward()
    assert logp.grad is not None
    assert torch.allclose(logp.grad, torch.tensor([[-2.0, -2.0], [1.0, 0.0]], dtype=torch.float64) / 3)


@pytest.mark.parametrize(
    ("ratio", "advantage", "passes"),
    [(1.5, 1.0, False), (0.5, 1.0, True), (1.5, -1.0, True), (0.5, -1.0, False), (1.1, 1.0, True), (0.9, -1.0, True)],
)
def test_clip_stops_only_steps_that_go_further(ratio: float, advantage: float, passes: bool) -> None:
    logp = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    parts = grpo_loss(logp, torch.zeros(1, 1, dtype=torch.float64), torch.tensor([advantage]), torch.ones(1, 1))
    parts.loss.backward()
    assert logp.grad is not None
    assert bool(logp.grad.abs().sum() > 0) is passes
    assert float(parts.clipped) == (0.0 if passes else 1.0)


def test_clip_higher_lets_rare_tokens_rise_further() -> None:
    logp = torch.tensor([[math.log(1.25)]], dtype=torch.float64)
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    assert float(grpo_loss(logp, zero, one, torch.ones(1, 1), clip_high=0.28).loss) == pytest.approx(-1.25)
    assert float(grpo_loss(logp, zero, one, torch.ones(1, 1), clip_high=0.2).loss) == pytest.approx(-1.2)


def test_long_rollouts_weigh_by_their_tokens() -> None:
    """Token-level normalisation: 3 tokens of A = 1 and 1 token of A = -1 average to -(3 - 1) / 4, not to 0."""
    logp = torch.zeros(2, 3)
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    assert float(grpo_loss(logp, logp, torch.tensor([1.0, -1.0]), mask).loss) == pytest.approx(-0.5)


def test_micro_batches_add_up_to_the_whole_batch() -> None:
    generator = torch.Generator().manual_seed(3)
    logp, old, ref = (-torch.rand(6, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    advantages, mask = torch.randn(6, generator=generator, dtype=torch.float64), torch.ones(6, 5)
    mask[2, 1:] = 0
    options = {"kl_weight": 0.1, "num_tokens": float(mask.sum())}
    whole = grpo_loss(logp, old, advantages, mask, reference=ref, **options).loss  # type: ignore[arg-type]
    parts = [
        grpo_loss(
            logp[i : i + 2], old[i : i + 2], advantages[i : i + 2], mask[i : i + 2], reference=ref[i : i + 2], **options
        ).loss  # type: ignore[arg-type]
        for i in (0, 2, 4)
    ]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-12)


def test_masked_tokens_cannot_spoil_the_loss() -> None:
    """A padded position may hold anything, infinities included."""
    logp = torch.tensor([[-1.0, -700.0]], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([[-1.0, 700.0]], dtype=torch.float64)
    ref = torch.tensor([[-1.0, math.inf]], dtype=torch.float64)
    mask = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    parts = grpo_loss(logp, old, torch.tensor([1.0]), mask, reference=ref, kl_weight=1.0)
    parts.loss.backward()
    assert math.isfinite(float(parts.loss.detach()))
    assert logp.grad is not None
    assert logp.grad[0, 1] == 0
    assert torch.isfinite(logp.grad).all()


def test_nothing_learned_is_no_loss() -> None:
    logp = torch.zeros(2, 3, requires_grad=True)
    parts = grpo_loss(logp, logp.detach(), torch.ones(2), torch.zeros(2, 3), reference=logp.detach(), kl_weight=1.0)
    parts.loss.backward()
    assert float(parts.loss.detach()) == 0.0
    assert logp.grad is not None
    assert not logp.grad.any()


def test_gradient_matches_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    old, ref = (-torch.rand(3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    advantages = torch.tensor([1.0, -0.7, 0.3], dtype=torch.float64)
    logp = (old + 0.05 * torch.randn(3, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    mask = torch.ones(3, 4, dtype=torch.float64)
    mask[1, 2:] = 0

    def loss(x: torch.Tensor) -> torch.Tensor:
        return grpo_loss(x, old, advantages, mask, reference=ref, kl_weight=0.5).loss

    assert torch.autograd.gradcheck(loss, (logp,))

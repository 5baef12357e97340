"""Group relative policy optimisation: the arithmetic alone, short enough to hold beside the papers' equations.

Notation, once for the file: N rollouts, each the member of one of G groups (`groups`, (N,), ints); L tokens;
r reward, A advantage, p the policy that is trained, q the policy that sampled (the "old" one), s the frozen reference.

Sources: GRPO (Shao et al. 2024, arXiv:2402.03300, eq. 3 and 4); DAPO (Yu et al. 2025, arXiv:2503.14476: token-level
normalisation, separate upper clip, dynamic sampling, truncated rollouts masked); GDPO (each reward normalised in its
group before the weighted sum); the k3 estimator of the KL divergence (Schulman 2020, "Approximating KL divergence").

Deviations, each on purpose:
- A reward without spread in its group gives exactly 0, where GRPO divides by std + epsilon; the standard deviation is
  the population's (divisor n), so a group's advantages have variance exactly 1.
- Groups without any spread are dropped and counted, not sampled again (DAPO): a fresh batch is as good.
- GDPO's second, batch-wide normalisation of the summed advantages is left out: it would let the weights of other
  questions change the size of this question's step.
- The divisor of the token mean is handed in, so that micro-batches add up to the whole batch's loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

MIN_SPREAD = 1e-6


@dataclass(frozen=True)
class LossParts:
    """The loss of a (micro-)batch and what is worth logging about it; all but `loss` are detached."""

    loss: Tensor
    """Scalar, differentiable."""
    kl: Tensor
    """Sum over learned tokens of the k3 estimate of KL(p || s)."""
    clipped: Tensor
    """Number of learned tokens where the clip is active."""
    surprisal: Tensor
    """Sum of -log p over learned tokens: divided by their number it estimates the entropy at temperature 1."""
    num_tokens: Tensor
    """Number of learned tokens."""


def group_zscore(rewards: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """A = (r - mean_group) / std_group (GRPO, section 4.1.2), 0 where the group has no spread.

    Args:
        rewards: (N,), any floating type.
        groups: (N,) int64, group of each rollout, 0..G-1; groups may differ in size.

    Returns:
        advantages (N,), and per group whether it has spread, (G,) bool.
    """
    num_groups = int(groups.max()) + 1 if groups.numel() else 0
    zeros = rewards.new_zeros(num_groups)
    size = zeros.index_add(0, groups, torch.ones_like(rewards)).clamp(min=1)
    mean = zeros.index_add(0, groups, rewards) / size
    centred = rewards - mean[groups]
    std = (zeros.index_add(0, groups, centred.square()) / size).sqrt()
    live = std > MIN_SPREAD
    return torch.where(live[groups], centred / std.clamp(min=MIN_SPREAD)[groups], 0.0), live


def decoupled_advantages(
    rewards: Mapping[str, Tensor], weights: Mapping[str, float], groups: Tensor
) -> tuple[Tensor, Tensor]:
    """A = sum_k w_k * zscore_group(r_k) (GDPO): a reward of small range is not drowned by one of large range.

    Args:
        rewards: Component name -> (N,).
        weights: Component name -> weight; a component with weight 0 neither counts nor keeps a group alive.
        groups: (N,) int64.

    Returns:
        advantages (N,), and per group whether any weighted component has spread, (G,) bool. A group without is dead:
        its advantages are 0 and its rollouts should be dropped.
    """
    total = torch.zeros(groups.shape, dtype=next(iter(rewards.values())).dtype)
    alive = torch.zeros(int(groups.max()) + 1 if groups.numel() else 0, dtype=torch.bool)
    for name, values in rewards.items():
        if weights[name] != 0.0:
            advantages, live = group_zscore(values, groups)
            total = total + weights[name] * advantages
            alive |= live
    return total, alive


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """KL(p || s) by token: s/p - log(s/p) - 1, never negative, unbiased for tokens drawn from p (GRPO, eq. 4)."""
    log_ratio = reference - logprobs
    return log_ratio.exp() - log_ratio - 1


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    reference: Tensor | None = None,
    kl_weight: float = 0.0,
    num_tokens: float | None = None,
) -> LossParts:
    """-1/T sum_t min(ratio A, clip(ratio, 1 - low, 1 + high) A) + kl_weight * k3, T = all learned tokens (DAPO, eq. 8).

    Args:
        logprobs: (N, L) log p of each token, differentiable.
        old_logprobs: (N, L) log q, no gradient.
        advantages: (N,), the same for every token of a rollout.
        mask: (N, L), 1 where the policy itself chose the token; prompts, tool results, forced and truncated tokens 0.
        clip_low: epsilon below.
        clip_high: epsilon above (DAPO's clip-higher; equal to `clip_low` in the original).
        reference: (N, L) log s, None without KL.
        kl_weight: beta.
        num_tokens: T; the batch's own count by default. Micro-batches pass the whole batch's.

    Returns:
        The loss and its parts; a batch without learned tokens has loss 0 (with a zero gradient).
    """
    mask = mask.to(logprobs.dtype)
    count = mask.sum()
    divisor = float(count) if num_tokens is None else num_tokens
    log_ratio = torch.where(mask > 0, logprobs - old_logprobs, 0.0)
    ratio = log_ratio.exp()
    advantage = advantages.to(logprobs.dtype)[:, None]
    free = ratio * advantage
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high) * advantage
    per_token = -torch.minimum(free, clipped)
    kl = torch.zeros_like(per_token)
    if reference is not None:
        kl = k3(logprobs, torch.where(mask > 0, reference, logprobs.detach()))
        per_token = per_token + kl_weight * kl
    loss = (per_token * mask).sum() / max(divisor, 1.0)
    with torch.no_grad():
        return LossParts(
            loss=loss,
            kl=(kl * mask).sum(),
            clipped=((clipped < free) * mask).sum(),
            surprisal=-(logprobs * mask).sum(),
            num_tokens=count,
        )

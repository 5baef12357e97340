"""Priorities: what is uncertain, rewarding and recent is worth learning from.

    p = max(floor, w_u (1 - confidence) + w_r min(|reward|, 1) + w_t 2^(-age / half-life)) * (1 - s + s * success rate)

with the factor only for records that were retrieved at least once. A priority set by the caller replaces all of it.
A clock that jumped backwards makes no negative age.
"""

from __future__ import annotations

import numpy as np

from components.ttrl.buffer.config import PriorityConfig


def priorities(
    config: PriorityConfig, now_s: float, *, created_s: np.ndarray, confidence: np.ndarray, reward: np.ndarray,
    retrieved: np.ndarray, succeeded: np.ndarray, override: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """(n,) float64 priorities of n records, from (n,) columns; `override` is NaN where the caller set none."""
    age = np.maximum(now_s - created_s, 0.0)
    value = (
        config.uncertainty_weight * (1.0 - confidence.astype(np.float64))
        + config.reward_weight * np.minimum(np.abs(reward.astype(np.float64)), 1.0)
        + config.recency_weight * np.exp2(-age / config.half_life_s)
    )
    rate = succeeded / np.maximum(retrieved, 1)
    value *= np.where(retrieved > 0, 1.0 - config.success_share + config.success_share * rate, 1.0)
    return np.maximum(np.where(np.isnan(override), value, override), config.floor)

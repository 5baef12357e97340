"""Bootstrap confidence intervals clustered by session, for figures and for paired differences.

Windows of one session resemble each other, so whole sessions are drawn with replacement (Efron & Tibshirani 1993,
ch. 8; Field & Welsh 2007). A paired difference draws the same sessions for both sides. Percentile intervals.
Not guaranteed: coverage with few sessions (under about ten they are too narrow); callers ask for a least number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Interval:
    """A figure with its interval.

    Attributes:
        value: The figure on all sessions.
        low: Lower end.
        high: Upper end.
        num_sessions: Sessions drawn from; with fewer than two there is no interval and its ends are NaN.
    """

    value: float
    low: float
    high: float
    num_sessions: int

    def as_dict(self) -> dict[str, float | int | None]:
        """JSON form; ends that do not exist are null."""
        known = lambda x: None if np.isnan(x) else float(x)
        return {
            "value": known(self.value),
            "low": known(self.low),
            "high": known(self.high),
            "num_sessions": self.num_sessions,
        }


def draws(num_sessions: int, *, num_resamples: int, seed: int) -> np.ndarray:
    """How often each session is drawn: (num_resamples, num_sessions) counts, each row summing to num_sessions."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_sessions, np.full(num_sessions, 1 / num_sessions), size=num_resamples)


def session_sums(values: np.ndarray, sessions: Sequence[str]) -> np.ndarray:
    """Per session (sum of what is not NaN, number of it): (S, 2); sessions without any value are left out."""
    names, place = np.unique(np.asarray(sessions), return_inverse=True)
    kept = ~np.isnan(values)
    sums = np.zeros((len(names), 2))
    np.add.at(sums[:, 0], place[kept], values[kept])
    np.add.at(sums[:, 1], place[kept], 1.0)
    return sums[sums[:, 1] > 0]


def ratio(totals: np.ndarray) -> np.ndarray:
    """(..., 2) sums and counts -> means."""
    return totals[..., 0] / np.maximum(totals[..., 1], 1e-12)


def bootstrap(
    per_session: np.ndarray,
    statistic: Statistic = ratio,
    *,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of a statistic of additive per-session totals.

    Args:
        per_session: (S, ...) totals that add up over sessions: (S, 2) sums and counts, or (S, K, K + 1) confusions.
        statistic: (..., totals) -> (...).
        level: Coverage aimed at.
        num_resamples: Bootstrap draws.
        seed: Of the draws.
    """
    num = len(per_session)
    if num == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    value = float(statistic(per_session.sum(axis=0)))
    if num < 2:
        return Interval(value, float("nan"), float("nan"), num)
    counts = draws(num, num_resamples=num_resamples, seed=seed)
    flat = counts @ per_session.reshape(num, -1)
    found = statistic(flat.reshape(num_resamples, *per_session.shape[1:]))
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), num)


def mean_interval(values: np.ndarray, sessions: Sequence[str], **options: float) -> Interval:
    """Interval of the mean of (N,) values, NaN left out, sessions (N,)."""
    return bootstrap(session_sums(values, sessions), **options)  # type: ignore[arg-type]


def paired_difference(a: np.ndarray, b: np.ndarray, sessions: Sequence[str], **options: float) -> Interval:
    """Interval of mean(a) - mean(b) over the windows where both have a value."""
    return mean_interval(a - b, sessions, **options)


def paired_statistic_difference(a: np.ndarray, b: np.ndarray, statistic: Statistic, **options: float) -> Interval:
    """Interval of statistic(a) - statistic(b) for totals (S, ...) of the same sessions in the same order."""
    both = np.stack([a, b], axis=1)
    return bootstrap(both, lambda totals: statistic(totals[..., 0, :, :]) - statistic(totals[..., 1, :, :]), **options)  # type: ignore[arg-type]

"""Intervals: coverage by simulation, clustering, pairing, and what few sessions give."""

import numpy as np
import pytest

from components.shared.learning.bootstrap import (
    bootstrap,
    draws,
    mean_interval,
    paired_difference,
    paired_statistic_difference,
)
from components.shared.learning.metrics import confusion_matrix, macro_f1


def sessions_of(rng: np.random.Generator, num: int, size: int, spread: float) -> tuple[np.ndarray, list[str]]:
    rates = np.clip(rng.normal(0.6, spread, num), 0, 1)
    values = np.concatenate([rng.random(size) < rate for rate in rates]).astype(float)
    return values, [f"s{i}" for i in range(num) for _ in range(size)]


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    hits = 0
    for run in range(200):
        values, sessions = sessions_of(rng, 30, 10, 0.15)
        found = mean_interval(values, sessions, num_resamples=400, seed=run)
        hits += found.low <= 0.6 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_windows_alike_within_sessions_widen_the_interval():
    values, sessions = sessions_of(np.random.default_rng(1), 20, 20, 0.35)
    clustered = mean_interval(values, sessions)
    as_if_free = mean_interval(values, [str(i) for i in range(len(values))])
    assert clustered.value == pytest.approx(as_if_free.value)
    assert clustered.high - clustered.low > 1.5 * (as_if_free.high - as_if_free.low)


def test_pairing_removes_what_both_share():
    values, sessions = sessions_of(np.random.default_rng(2), 20, 20, 0.35)
    better = np.maximum(values, (np.arange(len(values)) % 10 == 0).astype(float))
    found = paired_difference(better, values, sessions)
    assert found.low > 0 and found.high - found.low < 0.1
    assert paired_difference(values, values, sessions).as_dict() == {
        "value": 0.0, "low": 0.0, "high": 0.0, "num_sessions": 20,
    }  # fmt: skip


def test_windows_without_a_say_are_left_out():
    values = np.array([1.0, np.nan, 0.0, np.nan])
    found = mean_interval(values, ["a", "a", "b", "c"])
    assert (found.value, found.num_sessions) == (0.5, 2)


@pytest.mark.parametrize(("values", "num"), [([1.0, 0.0], 1), ([np.nan, np.nan], 0)])
def test_one_session_gives_no_interval(values, num):
    found = mean_interval(np.array(values), ["a", "a"])
    assert np.isnan(found.low) and np.isnan(found.high) and found.num_sessions == num
    assert found.as_dict()["low"] is None


def test_draws_keep_the_number_of_sessions_and_depend_on_the_seed():
    first = draws(7, num_resamples=50, seed=3)
    assert (first.sum(axis=1) == 7).all()
    assert np.array_equal(first, draws(7, num_resamples=50, seed=3))
    assert not np.array_equal(first, draws(7, num_resamples=50, seed=4))


def test_macro_f1_over_sessions_and_its_paired_difference():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (12, 40))
    good = np.where(rng.random(truth.shape) < 0.9, truth, 0)
    bad = np.where(rng.random(truth.shape) < 0.3, truth, 0)
    matrices = [np.stack([confusion_matrix(t, g, 3) for t, g in zip(truth, given)]) for given in (good, bad)]
    whole = bootstrap(matrices[0], macro_f1)
    assert whole.value == pytest.approx(float(macro_f1(confusion_matrix(truth.ravel(), good.ravel(), 3))))
    assert whole.low < whole.value < whole.high
    gap = paired_statistic_difference(*matrices, macro_f1)
    assert gap.low > 0 and gap.value == pytest.approx(whole.value - float(macro_f1(matrices[1].sum(axis=0))))

"""Selection keeps its promises for any signal; signals are the formulas; the boost stays in training windows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.runtime.errors import ConfigError, InputError
from components.shared.video.samplers import (
    SAMPLERS,
    BoundaryBoost,
    make_sampler,
    select_evenly,
    select_greedily,
    smooth,
)

signals = st.lists(st.floats(0, 8, allow_nan=False), min_size=1, max_size=160).map(np.array)


@given(signals, st.integers(1, 40), st.integers(1, 20), st.sampled_from([1, 1, 8]))
def test_greedy_selection_keeps_count_anchors_and_distance(signal: np.ndarray, k: int, gap: int, stride: int) -> None:
    chosen = select_greedily(signal, k, gap, stride=stride)
    indices = chosen.indices
    assert len(indices) == min(k, len(signal))
    assert list(indices) == sorted(set(indices))
    assert indices[0] == 0
    if k > 1:
        assert indices[-1] == len(signal) - 1
    between = np.diff(indices) if k > 2 else []
    assert all(distance >= chosen.gap for distance in between)
    assert chosen.gap <= gap or len(signal) <= k


@given(signals.filter(lambda s: len(s) > 12), st.integers(3, 8), st.integers(1, 6))
def test_the_choice_is_greedy(signal: np.ndarray, k: int, gap: int) -> None:
    """While the distance holds, every chosen frame is the strongest that was still allowed."""
    chosen = select_greedily(signal, k, gap)
    if chosen.gap < gap:
        return
    anchors = {0, len(signal) - 1}
    inner = sorted((i for i in chosen.indices if i not in anchors), key=lambda i: (-signal[i], i))
    for position, taken in enumerate(inner):
        before = anchors | set(inner[:position])
        allowed = [i for i in range(len(signal)) if all(abs(i - other) >= gap for other in before)]
        assert signal[taken] == max(signal[i] for i in allowed)


def test_a_distance_that_cannot_hold_is_lowered_and_said() -> None:
    chosen = select_greedily(np.zeros(20), 8, 5)
    assert len(chosen.indices) == 8
    assert chosen.gap < 5
    assert select_greedily(np.zeros(125), 16, 5).gap == 5


def test_long_inputs_are_looked_at_three_times_a_second() -> None:
    raw = np.random.default_rng(0).random(40 * 25)
    inner = make_sampler("entropy").select(raw, 16, fps=25).indices[1:-1]
    assert all(index % 8 == 0 for index in inner)
    short = make_sampler("entropy").select(raw[:125], 16, fps=25).indices
    assert any(index % 8 for index in short[1:-1])


@given(st.integers(1, 300), st.integers(1, 40))
def test_uniform_is_even(total: int, k: int) -> None:
    indices = select_evenly(total, k).indices
    assert len(indices) == min(total, k)
    assert indices[0] == 0
    if len(indices) > 2:
        assert indices[-1] == total - 1
        assert max(np.diff(indices)) - min(np.diff(indices)) <= 1


def test_smoothing_is_the_recursion() -> None:
    assert smooth(np.array([4.0, 2.0, 6.0])) == pytest.approx([4.0, 0.7 * 2 + 0.3 * 4, 0.7 * 6 + 0.3 * (0.7 * 2 + 1.2)])


def test_entropy_is_the_histogram_formula() -> None:
    image = np.random.default_rng(1).integers(0, 256, (37, 53), np.uint8)
    p = np.bincount(image.reshape(-1), minlength=256) / image.size
    p = p[p > 0]
    assert SAMPLERS["entropy"]().measure(image, None) == pytest.approx(-(p * np.log2(p)).sum(), abs=1e-9)
    assert SAMPLERS["entropy"]().measure(np.full((8, 8), 7, np.uint8), None) == 0


@pytest.mark.parametrize("name", ["motion", "flow"])
def test_moving_frames_measure_more_than_still_ones(name: str) -> None:
    rng = np.random.default_rng(2)
    base = np.kron(rng.integers(0, 255, (12, 16), np.uint8), np.ones((8, 8), np.uint8))
    sampler = make_sampler(name)
    still = sampler.measure(base.copy(), base)
    moved = make_sampler(name).measure(np.roll(base, 3, axis=1), base)
    assert moved > still + 0.3
    assert sampler.measure(base, None) == 0


@pytest.mark.parametrize("name", ["motion", "flow", "entropy"])
def test_a_window_alone_chooses_as_within_its_recording(name: str) -> None:
    raw = np.random.default_rng(3).random(300)
    first = raw[100:225].copy()
    alone = first.copy()
    if SAMPLERS[name].relative:
        alone[0] = 0.0  # nothing before it to differ from
    assert make_sampler(name).select(first, 16) == make_sampler(name).select(alone, 16)


@pytest.mark.parametrize("split", ["validation", "test", "canary"])
def test_the_boost_refuses_all_but_training(split: str) -> None:
    with pytest.raises(ConfigError, match=r"boundary_boost on split .* leak"):
        BoundaryBoost((10.0,), 25, split)


def test_the_boost_multiplies_within_half_a_second() -> None:
    boosted = BoundaryBoost((50.0,), 25, "train").apply(np.ones(125))
    assert boosted[50 - 12] == boosted[50 + 12] == 1.5
    assert boosted[50 - 13] == boosted[50 + 13] == 1.0
    raw = np.ones(125)
    plain = make_sampler("entropy").select(raw, 8)
    near = make_sampler("entropy").select(raw, 8, boost=BoundaryBoost((60.0,), 25, "train"))
    count = lambda chosen: sum(abs(i - 60) <= 12 for i in chosen.indices)
    assert count(near) > count(plain)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(InputError):
        select_greedily(np.zeros(0), 8, 5)
    with pytest.raises(InputError):
        select_evenly(10, 0)
    with pytest.raises(ConfigError, match="there are uniform, entropy"):
        make_sampler("random")

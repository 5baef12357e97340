"""The order of work: balance, baselines, and that no constant answer wins."""

import itertools
from collections import Counter

import numpy as np
import pytest

from components.data_synthesis.recordings.config import TwinSection
from components.data_synthesis.recordings.twin.script import SUCCESSORS, Step, write_script
from components.shared.work.operations import NULL_ID

WINDOW_S = 5.0


@pytest.fixture(scope="module")
def scripts() -> list[list[Step]]:
    config = TwinSection()
    return [write_script(config, np.random.default_rng([1, k]), length_s=30.0, pace=1.0) for k in range(150)]


def dominant(script: list[Step], start: float) -> tuple[int, tuple[float, float], float]:
    """Operation with most overlap, its segment in the window, its lead over the second in seconds."""
    shares: Counter[int] = Counter()
    longest: dict[int, tuple[float, float]] = {}
    for step in script:
        a, b = max(step.start_s - start, 0.0), min(step.end_s - start, WINDOW_S)
        if b > a and step.operation != NULL_ID:
            shares[step.operation] += b - a
            if b - a > np.diff(longest.get(step.operation, (0, 0)))[0]:
                longest[step.operation] = (a, b)
    ranked = shares.most_common(2)
    lead = ranked[0][1] - (ranked[1][1] if len(ranked) > 1 else 0.0)
    return ranked[0][0], longest[ranked[0][0]], lead


def iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    inside = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return inside / (a[1] - a[0] + b[1] - b[0] - inside)


def windows(scripts: list[list[Step]]) -> list[tuple[int, tuple[float, float], float]]:
    return [dominant(script, start) for script in scripts for start in np.arange(0, 25.1, 2.5)]


def test_probabilities_sum_to_one_and_every_operation_is_reached() -> None:
    for options in SUCCESSORS.values():
        assert sum(p for _, p in options) == pytest.approx(1)
    assert {o for options in SUCCESSORS.values() for o, _ in options} == set(SUCCESSORS)


def test_no_class_dominates(scripts) -> None:
    counts = Counter(operation for operation, _, _ in windows(scripts))
    shares = [count / sum(counts.values()) for count in counts.values()]
    assert len(shares) == 10
    assert max(shares) < 0.2
    assert min(shares) > 0.04


def test_no_constant_segment_wins(scripts) -> None:
    clear = [segment for _, segment, lead in windows(scripts) if lead >= WINDOW_S / 16]
    raster = np.arange(0, WINDOW_S + 0.1, 0.25)
    best = max(np.mean([iou((a, b), s) >= 0.5 for s in clear]) for a in raster for b in raster if b > a)
    assert best < 0.6


def test_knowing_the_operation_does_not_tell_the_next(scripts) -> None:
    pairs: Counter[tuple[int, int]] = Counter()
    for script in scripts:
        labels = [step.operation for step in script if step.operation != NULL_ID]
        pairs.update((a, b) for a, b in itertools.pairwise(labels) if a != b)
    best = {a: max(count for (x, _), count in pairs.items() if x == a) for a, _ in pairs}
    assert 0.55 < sum(best.values()) / sum(pairs.values()) < 0.75


def test_recordings_start_anywhere_in_the_order(scripts) -> None:
    assert len({script[0].operation for script in scripts} - {NULL_ID}) == 10


def test_times_lie_on_frames_and_touch(scripts) -> None:
    for script in scripts:
        assert script[0].start_s == 0
        assert script[-1].end_s == 30.0
        for a, b in itertools.pairwise(script):
            assert a.end_s == pytest.approx(b.start_s)
            assert a.operation != b.operation
            assert abs(a.end_s * 25 - round(a.end_s * 25)) < 1e-6


def test_duration_factors_shift_the_class_distribution() -> None:
    config = TwinSection(duration_factors={100: 4.0})
    scripts = [write_script(config, np.random.default_rng([1, k]), length_s=30.0, pace=1.0) for k in range(60)]
    seconds: Counter[int] = Counter()
    for script in scripts:
        for step in script:
            seconds[step.operation] += step.end_s - step.start_s
    assert seconds[100] / sum(seconds.values()) > 0.3

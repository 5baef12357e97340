"""Baselines against simulation and by hand."""

import numpy as np
import pytest

from components.evaluation.baselines import all_baselines, best_segment, bigram, commonest, grid
from components.shared.learning.metrics import Answer, temporal_iou

TRUTH = [
    Answer("a", (0.0, 2.0), "b"),
    Answer("a", (0.5, 2.5), "b"),
    Answer("b", (2.0, 5.0), "c"),
    Answer("c", (0.0, 5.0), None),
]
BOUNDARY = np.array([True, True, True, False])
TRAIN = [
    Answer("a", (0.0, 2.0), "b"),
    Answer("b", (0.0, 5.0), "a"),
    Answer("b", (2.0, 5.0), None),
    Answer("a", (0, 2), "b"),
]


@pytest.fixture
def found():
    return all_baselines(TRUTH, BOUNDARY, 5.0, ("a", "b", "c"), TRAIN, {"a": {"b": 3, "c": 1}}, TRUTH, seed=0)


def test_constant_is_the_best_in_hindsight(found):
    scores = found["constant"].scores
    assert scores["oca"].tolist() == [1, 1, 0, 0]
    assert scores["aa1"][:3].tolist() == [1, 1, 0] and np.isnan(scores["aa1"][3])
    assert np.isnan(scores["tiou50"][3]) and np.nanmean(scores["tiou50"]) == pytest.approx(2 / 3)


def test_no_constant_segment_scores_higher_than_the_best():
    rng = np.random.default_rng(0)
    truth = [Answer("a", (s, s + d), None) for s, d in zip(rng.uniform(0, 3, 60), rng.uniform(0.5, 2, 60))]
    best = best_segment(truth, np.ones(60, bool), 5.0)
    share = lambda segment: np.mean([temporal_iou(t.segment_s, segment) >= 0.5 for t in truth])
    assert share(best) == max(share(tuple(segment)) for segment in grid(5.0))


def test_prior_and_uniform_are_what_drawing_gives(found):
    rng = np.random.default_rng(1)
    drawn = [TRAIN[i] for i in rng.integers(len(TRAIN), size=20_000)]
    for index, truth in enumerate(TRUTH[:3]):
        assert found["prior"].scores["oca"][index] == pytest.approx(
            np.mean([d.operation == truth.operation for d in drawn]), abs=0.02
        )
        assert found["prior"].scores["aa1"][index] == pytest.approx(
            np.mean([d.next_operation == truth.next_operation for d in drawn]), abs=0.02
        )
        assert found["prior"].scores["tiou50"][index] == pytest.approx(
            np.mean([temporal_iou(d.segment_s, truth.segment_s) >= 0.5 for d in drawn]), abs=0.02
        )
    assert found["uniform"].scores["oca"].tolist() == [pytest.approx(1 / 3)] * 4


def test_bigrams(found):
    assert found["bigram_from_truth"].scores["aa1"][:3].tolist() == [1, 1, 0]
    unread = bigram(TRUTH, [None, "a", "zzz", None], {"a": {"b": 1}})
    assert unread.scores["aa1"][:3].tolist() == [0, 1, 0]


def test_nothing_to_choose_from():
    assert commonest([None, None]) is None and commonest(["b", "a"]) == "a"
    assert best_segment(TRUTH, np.zeros(4, bool), 5.0) == (0.0, 5.0)
    found = all_baselines(TRUTH[3:], BOUNDARY[3:], 5.0, ("a", "b", "c"), [], {}, TRUTH[3:], seed=0)
    assert np.isnan(found["constant"].scores["aa1"]).all() and "no training" in found["prior"].detail

"""Timelines: fusion of windows, the official 1 Hz form, segmental figures by hand."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from components.shared.learning.timeline import (
    NO_LABEL,
    edit_score,
    fuse,
    levenshtein,
    resample_1hz,
    runs,
    sampled,
    segment_matches,
    segmental_f1,
)

DATA = Path(os.environ.get("PIXELIS_SHARED_DATA", Path(__file__).parents[5] / "shared/data"))


def test_resample_golden():
    path = DATA / "metric_goldens/goldens.json"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    golden = json.loads(path.read_text())["resample_1hz"]
    seconds, labels = resample_1hz(np.array(golden["unix_ms"]), np.array(golden["labels"]))
    assert seconds.tolist() == golden["expected_unix_ms"]
    assert labels.tolist() == golden["expected_labels"]


def test_resample_keeps_gaps_and_nothing():
    seconds, labels = resample_1hz(np.array([10, 900, 5100]), np.array([1, 2, 3]))
    assert (seconds.tolist(), labels.tolist()) == ([0, 5000], [2, 3])
    assert len(resample_1hz(np.zeros(0, int), np.zeros(0, int))[0]) == 0


def test_sampled_excludes_the_end():
    times = np.arange(5.0)
    assert sampled([(0, 0.0, 2.0), (1, 2.0, 4.0)], times).tolist() == [0, 0, 1, 1, NO_LABEL]


def test_fusion_votes_and_fills():
    times = np.arange(0.5, 10)
    answers = [(0, 0.0, 3.0, 1, 5.0), (1, 3.0, 5.0, None, 7.0), (1, 2.0, 5.0, 2, 7.0)]
    assert fuse(answers, times, 3).tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2, 2]
    assert fuse([], times, 3).tolist() == [NO_LABEL] * 10


def test_a_vote_for_what_is_under_way_beats_one_for_what_follows():
    assert fuse([(0, 0.0, 2.0, 1, 5.0), (2, 2.0, 5.0, None, 5.0)], np.array([1.0, 3.0]), 3).tolist() == [0, 2]


def test_runs_leave_out_what_is_not_said():
    assert runs(np.array([1, 1, NO_LABEL, 2, 2, 1])) == [(1, 0, 2), (2, 3, 5), (1, 5, 6)]
    assert runs(np.zeros(0, int)) == []


@pytest.mark.parametrize(
    ("a", "b", "distance"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("ab", "ba", 2)]
)
def test_levenshtein(a, b, distance):
    assert levenshtein([ord(x) for x in a], [ord(x) for x in b]) == distance


def test_edit_score_looks_at_order_not_length():
    truth = np.repeat([0, 1, 2, 3], 5)
    assert edit_score(truth, np.repeat([0, 1, 2, 3], [1, 9, 1, 9])) == 100.0
    assert edit_score(truth, np.repeat([0, 1, 3], [5, 10, 5])) == 75.0
    assert edit_score(truth, np.tile([0, 1], 10)) == pytest.approx(100 * (1 - 18 / 20))


def test_segmental_f1_by_hand():
    truth = np.repeat([0, 1, 0], [4, 4, 4])
    given = np.repeat([0, 1, 0], [2, 6, 4])  # IoU .5, 4/6, 1
    assert segment_matches(truth, given, 0.5) == (3, 0, 0)
    assert segment_matches(truth, given, 0.6) == (2, 1, 1)
    assert segmental_f1([(truth, given), (truth, truth)], 0.6) == pytest.approx(2 * 5 / (10 + 1 + 1))
    over = np.repeat([0, 1, 0, 1], [4, 2, 1, 5])  # over-segmentation costs
    assert segmental_f1([(truth, over)], 0.1) < 1.0
    assert segmental_f1([(truth, np.full(12, NO_LABEL))], 0.1) == 0.0

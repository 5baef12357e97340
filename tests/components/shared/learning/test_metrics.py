"""Window figures: cases by hand, golden values of mmaction2 and openpack-toolkit."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from components.shared.learning.metrics import (
    UNPARSED,
    Answer,
    at_least,
    class_scores,
    confusion_matrix,
    expected_calibration_error,
    macro_f1,
    mean,
    next_right,
    num_distinct_segments,
    operation_right,
    overlap,
    temporal_iou,
)

DATA = Path(os.environ.get("PIXELIS_SHARED_DATA", Path(__file__).parents[5] / "shared/data"))


@pytest.fixture
def goldens() -> dict:
    path = DATA / "metric_goldens/goldens.json"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        ((0, 2), (1, 3), 1 / 3),
        ((1, 4), (1, 4), 1.0),
        ((0, 1), (1, 2), 0.0),
        ((0, 1), (3, 4), 0.0),
        ((0, 4), (1, 2), 0.25),
        ((2, 2), (2, 2), 0.0),
        ((3, 1), (0, 4), 0.0),
        (None, (0, 1), 0.0),
    ],
)
def test_temporal_iou(a, b, iou):
    assert temporal_iou(a, b) == pytest.approx(iou)
    assert temporal_iou(b, a) == pytest.approx(iou)


def test_temporal_iou_golden(goldens):
    golden = goldens["pairwise_temporal_iou"]
    got = [[temporal_iou(c, t) for c in golden["candidates"]] for t in golden["targets"]]
    assert np.allclose(got, golden["expected_target_by_candidate"])


TRUTH = [
    Answer("pick", (0.0, 2.0), "scan"),
    Answer("scan", (1.0, 5.0), None),
    Answer("pick", (0.0, 5.0), "close"),
    Answer("close", (2.0, 5.0), "pick"),
]


def test_figures_by_hand():
    given = [
        Answer("pick", (0.0, 1.5), "close"),  # right operation, wrong next, IoU .75
        Answer("scan", (4.0, 5.0), "pick"),  # right operation, nothing follows, IoU .25
        UNPARSED,
        Answer("pick", (2.0, 5.0), "pick"),  # wrong operation, right next, IoU 1
    ]
    boundary = [True, True, False, True]
    assert operation_right(TRUTH, given).tolist() == [1, 1, 0, 0]
    assert mean(next_right(TRUTH, given)) == pytest.approx(1 / 3)
    iou = overlap(TRUTH, given, boundary)
    assert mean(iou) == pytest.approx((0.75 + 0.25 + 1.0) / 3)
    assert mean(at_least(iou, 0.5)) == pytest.approx(2 / 3)
    assert num_distinct_segments(given) == 3


def test_what_cannot_be_read_is_wrong_everywhere():
    given = [Answer("pick", None, "scan")] * 4  # no segment: not an answer, although operation and next would be right
    assert operation_right(TRUTH, given).sum() == 0
    assert np.nansum(next_right(TRUTH, given)) == 0
    assert np.nansum(overlap(TRUTH, given, [True] * 4)) == 0


def test_nothing_to_score_is_none_not_zero():
    assert mean(next_right([Answer("a", (0, 1), None)], [Answer("a", (0, 1), None)])) is None
    assert mean(overlap(TRUTH[:1], TRUTH[:1], [False])) is None


def test_openpack_golden(goldens):
    golden = goldens["openpack_operation_segmentation"]
    ids = [int(key) for key in golden["classes"]]
    place = lambda values: np.array([ids.index(value) for value in values])
    confusion = confusion_matrix(place(golden["truth"]), place(golden["prediction"]), len(ids))
    precision, recall, f1 = class_scores(confusion)
    for row, name in enumerate(golden["classes"].values()):
        assert np.allclose([precision[row], recall[row], f1[row]], golden["per_class"][name], atol=1e-6)
    assert float(macro_f1(confusion)) == pytest.approx(golden["macro"]["f1"], abs=1e-6)
    assert precision.mean() == pytest.approx(golden["macro"]["precision"], abs=1e-6)
    assert recall.mean() == pytest.approx(golden["macro"]["recall"], abs=1e-6)


def test_macro_f1_equals_scikit_learn_on_random_labels():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    truth, given = rng.integers(0, 4, 200), rng.integers(-1, 5, 200)
    confusion = confusion_matrix(truth, given, 5)
    want = sklearn.f1_score(truth, given, labels=range(5), average="macro", zero_division=0)
    assert float(macro_f1(confusion)) == pytest.approx(want)
    stacked = np.stack([confusion, np.eye(5, 6, dtype=int)])
    assert macro_f1(stacked)[1] == 1.0


def test_classes_that_do_not_occur_may_be_left_out():
    confusion = confusion_matrix(np.array([0, 1]), np.array([0, 1]), 4)
    assert float(macro_f1(confusion)) == 0.5
    assert float(macro_f1(confusion, present_only=True)) == 1.0


def test_calibration_by_hand():
    error, bins = expected_calibration_error(np.array([0.95, 0.95, 0.15, 1.0]), np.array([1, 0, 0, 1]))
    assert bins == [(0.15, 0.0, 1), (pytest.approx(2.9 / 3), pytest.approx(2 / 3), 3)]
    assert error == pytest.approx((0.15 + 3 * (2.9 / 3 - 2 / 3)) / 4)
    assert expected_calibration_error(np.zeros(0), np.zeros(0)) == (0.0, [])


def test_the_threshold_itself_is_reached():
    np.testing.assert_array_equal(at_least(np.array([0.4, 0.5, np.nan]), 0.5), [0.0, 1.0, np.nan])

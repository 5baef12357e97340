import pytest

from components.shared.learning.answer_figures import answer_figures


def answer(operation="A", start=1.0, end=3.0, following="B"):
    return {"operation": operation, "start_s": start, "end_s": end, "next_operation": following}


TRUTHS = [answer(), answer("B", 0.0, 4.0, None), answer("C"), answer("A")]


def test_hand_computed_figures():
    answers = [answer(), answer("B", 0.0, 1.9, "A"), None, answer("B", 2.0, 4.0)]
    figures = answer_figures(TRUTHS, answers, [True, True, True, False], (0.0, 3.0))
    assert figures["oca"] == 2 / 4
    assert figures["aa"] == 2 / 4
    assert figures["tiou"] == pytest.approx(1 / 3)  # 1, .475, unparsed; the last window has no boundary
    assert figures["tiou_constant"] == 1.0  # 2/3, 3/4, 2/3
    assert figures["valid_share"] == 3 / 4
    assert figures["distinct_segments"] == 3
    assert (figures["num_windows"], figures["num_boundary_windows"]) == (4, 3)


def test_no_next_operation_is_an_answer_but_a_missing_answer_is_not():
    truth = [answer(following=None)]
    assert answer_figures(truth, [answer(following=None)], [True], None)["aa"] == 1.0
    assert answer_figures(truth, [None], [True], None)["aa"] == 0.0
    assert answer_figures(truth, [{"operation": "A"}], [True], None)["aa"] == 0.0


def test_exactly_half_counts():
    figures = answer_figures([answer(start=0.0, end=4.0)], [answer(start=0.0, end=2.0)], [True], None)
    assert figures["tiou"] == 1.0


def test_no_windows():
    assert answer_figures([], [], [], None) == {"num_windows": 0.0}

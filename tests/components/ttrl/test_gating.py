"""The gate: what a vote may teach."""

import pytest

from components.ttrl.gating import cap_sources, is_contested, learning_rate, lesson, visit_weight
from components.ttrl.voting import vote

RULES = {"share": 0.5, "margin": 0.15, "negative_share": 0.15, "quorum": 0.5}


def ballot(counts, abstentions=0):
    values = [{"value": name} for name, count in counts.items() for _ in range(count)]
    return vote([*values, *[None] * abstentions])


@pytest.mark.parametrize(
    ("counts", "abstentions", "label", "negatives"),
    [
        ({"a": 8}, 0, "a", []),
        ({"a": 4, "b": 4}, 0, None, []),  # no lead
        ({"a": 7, "b": 1}, 0, "a", ["b"]),  # 1/8 is under .15
        ({"a": 6, "b": 2}, 0, "a", []),  # 2/8 is between the thresholds: nothing is learned about b
        ({"a": 3, "b": 2, "c": 2, "d": 1}, 0, None, ["d"]),  # top share under .5, yet a negative
        ({"a": 5}, 3, "a", []),
        ({"a": 3}, 5, None, []),  # too few voted, however united
        ({}, 8, None, []),
    ],
)
def test_lesson(counts, abstentions, label, negatives):
    learned = lesson(ballot(counts, abstentions), **RULES)
    assert learned.label == (None if label is None else {"value": label})
    assert list(learned.negatives) == [{"value": n} for n in negatives]
    assert bool(learned.reason) == (label is None)


def test_margin_must_be_exceeded_not_reached():
    split = ballot({"a": 23, "b": 17})  # shares .575 and .425: margin exactly .15
    assert lesson(split, **RULES).label is None
    assert lesson(split, **{**RULES, "margin": 0.14}).label == {"value": "a"}


def test_a_quorum_is_reached_and_a_negative_is_below():
    assert lesson(ballot({"a": 4}, 4), **RULES).label == {"value": "a"}, "half of the rollouts are the quorum"
    eighth = lesson(ballot({"a": 7, "b": 1}), **{**RULES, "negative_share": 0.125})
    assert eighth.negatives == (), "a share of exactly the threshold is no negative"


def test_weight_is_the_part_of_all_rollouts():
    assert lesson(ballot({"a": 5}, 3), **RULES).weight == pytest.approx(5 / 8)


def test_flips_lower_the_weight():
    assert visit_weight(flipped=False, share=0.9) == 1.0
    assert visit_weight(flipped=True, share=0.55) == 0.5
    assert visit_weight(flipped=True, share=0.9) == pytest.approx(0.35)


def test_contested_items_are_left_alone():
    assert is_contested(num_flips=1, num_visits=5, share=0.8)
    assert not is_contested(num_flips=0, num_visits=9, share=0.8)
    assert not is_contested(num_flips=2, num_visits=4, share=0.8)
    assert not is_contested(num_flips=2, num_visits=6, share=0.7)


def test_learning_rate_ramps_and_is_bounded():
    rates = [learning_rate(1.0, confidence=1.0, num_updates=n, ramp_updates=4) for n in range(6)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert learning_rate(1.0, confidence=0.5, num_updates=9, ramp_updates=4) == 0.5
    assert learning_rate(1.0, confidence=0.0, num_updates=9, ramp_updates=4) == pytest.approx(0.1)
    assert learning_rate(1.0, confidence=7.0, num_updates=9, ramp_updates=0) == 1.0


def test_one_source_cannot_fill_a_batch():
    items = list(range(10))
    assert cap_sources(items, ["x"] * 10, batch=8, max_share=0.5) == [0, 1, 2, 3]
    mixed = ["x", "x", "x", "x", "x", "y", "y", "z", "y", "y"]
    assert cap_sources(items, mixed, batch=8, max_share=0.5) == [0, 1, 2, 3, 5, 6, 7, 8]
    assert cap_sources(items, mixed, batch=3, max_share=1.0) == [0, 1, 2]

"""Votes: equivalence, order independence, abstentions."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.ttrl.voting import adjusted_confidence, same_vote, temporal_iou, vote


def answer(operation, start, end, following=None):
    return {"operation": operation, "start_s": start, "end_s": end, "next_operation": following}


PICK, SCAN = answer("Picking", 0.0, 2.0, "Scan Label"), answer("Scan Label", 2.0, 5.0)

answers = st.one_of(
    st.none(),
    st.builds(
        lambda op, start, length, nxt: answer(op, start, start + length, nxt),
        st.sampled_from("AB"),
        st.integers(0, 4),
        st.integers(1, 3),
        st.sampled_from([None, "A"]),
    ),
    st.builds(lambda v: {"value": v}, st.sampled_from(["x", "y"])),
)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (PICK, answer("Picking", 1.9, 4.0), True),
        (PICK, answer("Picking", 2.0, 4.0), False),  # touching is not overlapping
        (PICK, answer("Scan Label", 0.0, 2.0), False),
        (answer("Picking", 1.0, 1.0), answer("Picking", 1.0, 1.0), True),  # equal, though without length
        ({"value": "checker"}, {"value": "checker"}, True),
        ({"value": "checker"}, {"value": "diagonal"}, False),
        ({"value": "Picking"}, PICK, False),
    ],
)
def test_same_vote(one, other, same):
    assert same_vote(one, other) is same
    assert same_vote(other, one) is same


def test_majority_counts_votes_and_not_abstentions():
    ballot = vote([PICK, None, answer("Picking", 0.5, 2.5), SCAN, None])
    assert ballot.winner.count == 2
    assert ballot.top_share == pytest.approx(2 / 3)
    assert ballot.quorum == pytest.approx(3 / 5)
    assert ballot.confidence == pytest.approx(2 / 5)
    assert ballot.margin == pytest.approx(1 / 3)


def test_none_never_wins():
    ballot = vote([None] * 7 + [PICK])
    assert ballot.winner.answer == PICK
    assert ballot.confidence == pytest.approx(1 / 8)
    empty = vote([None] * 4)
    assert empty.winner is None
    assert empty.confidence == empty.top_share == empty.quorum == 0.0


def test_a_chain_of_overlaps_is_not_one_class():
    chain = [answer("A", 0, 2), answer("A", 1.5, 3.5), answer("A", 3, 5)]
    ballot = vote(chain)
    assert ballot.winner.count == 3, "the middle one overlaps both, so it is the centre of all three"
    apart = vote([answer("A", 0, 2), answer("A", 3, 5)])
    assert [c.count for c in apart.classes] == [1, 1]


def test_representative_is_a_member_with_the_usual_next_operation():
    members = [answer("A", 0, 4, "B"), answer("A", 0, 4, "C"), answer("A", 0, 3.9, "B")]
    winner = vote(members).winner
    assert winner.answer in members
    assert winner.answer["next_operation"] == "B"


def test_order_does_not_matter():
    rollouts = [PICK, SCAN, answer("Picking", 1, 4), answer("Picking", 3, 5), None, {"value": "x"}]
    outcomes = {
        (str(b.winner.answer), tuple(c.count for c in b.classes))
        for b in (vote(order) for order in itertools.permutations(rollouts))
    }
    assert len(outcomes) == 1


@given(st.lists(answers, max_size=12))
def test_classes_partition_the_votes(rollouts):
    ballot = vote(rollouts)
    members = [i for c in ballot.classes for i in c.members]
    assert sorted(members) == [i for i, a in enumerate(rollouts) if a is not None]
    assert sum(c.share for c in ballot.classes) == pytest.approx(1.0 if members else 0.0)
    counts = [c.count for c in ballot.classes]
    assert counts == sorted(counts, reverse=True)
    for c in ballot.classes:
        assert any(all(same_vote(rollouts[i], rollouts[j]) for j in c.members) for i in c.members)


def test_temporal_iou():
    assert temporal_iou(answer("A", 0, 2), answer("A", 1, 3)) == pytest.approx(1 / 3)
    assert temporal_iou(answer("A", 0, 1), answer("A", 2, 3)) == 0.0


def test_neighbours_move_confidence_by_their_weight_at_most():
    assert adjusted_confidence(0.5, [], num_asked=5, weight=0.2) == 0.5
    assert adjusted_confidence(0.5, [(1.0, True)] * 5, num_asked=5, weight=0.2) == pytest.approx(0.6)
    assert adjusted_confidence(0.5, [(1.0, False)] * 5, num_asked=5, weight=0.2) == pytest.approx(0.4)
    one_of_five = adjusted_confidence(0.5, [(1.0, False)], num_asked=5, weight=0.2)
    assert one_of_five == pytest.approx(0.48)
    assert adjusted_confidence(0.5, [(-1.0, True)], num_asked=5, weight=0.2) == 0.5

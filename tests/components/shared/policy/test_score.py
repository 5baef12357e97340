from typing import get_args

import pytest

from components.shared.policy.description import PolicyKind
from components.shared.policy.interface import Message


def pytest_generate_tests(metafunc):
    metafunc.parametrize("shared_policy", get_args(PolicyKind), indirect=True)


def test_a_candidates_score_is_the_sum_of_its_tokens(shared_policy, question):
    asked = (question(3),)
    texts = ["Picking", "Box", '{"value": "diagonal"}']
    scores = shared_policy.score(asked, texts)
    for text, score in zip(texts, scores):
        logprobs, mask = shared_policy.token_logprobs([(*asked, Message("assistant", text))])
        assert score == pytest.approx(float((logprobs * mask).sum()), abs=1e-4)


def test_what_was_said_before_is_not_scored(shared_policy, question, frames):
    short = (question(2), Message("assistant", "look"), Message("tool", "seen", images=frames(1, 112)))
    (score,) = shared_policy.score(short, ["Box"])
    logprobs, mask = shared_policy.token_logprobs([(*short, Message("assistant", "Box"))])
    learned = len(shared_policy.codec.encode("Box")) + 1
    assert score == pytest.approx(float((logprobs * mask)[0, -learned:].sum()), abs=1e-4)


def test_no_candidates_give_no_scores(shared_policy, question):
    assert shared_policy.score((question(1),), []) == []

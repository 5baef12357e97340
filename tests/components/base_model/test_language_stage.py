import pytest
import torch
from torch.nn import functional

from components.base_model.language_stage import MOST, dense_loss, fact_tokens, lesson_parts, of_like_length
from components.base_model.lessons import Facts, Lesson
from components.shared.learning.parts import Parts
from components.shared.policy.interface import Message
from components.shared.policy.tiny import TinySize, build_tiny

LABELS = ("A", "BB", "unknown to the tokenizer")
SMALL = TinySize(
    hidden=64, layers=2, heads=2, kv_heads=1, intermediate=64, vision_hidden=32, vision_depth=1, vision_heads=2
)
TIMES = (0.0, 1.0, 2.0)


@pytest.fixture
def policy():
    return build_tiny(LABELS[:2], num_frames=3, size=SMALL, vocabulary=300)


FACTS = (Facts("A", "0.0", value="BB"), Facts("BB", "1.0"), Facts("BB", "1.0", value="A"))


def lesson(facts=FACTS, text="A"):
    images = tuple(torch.randint(0, 255, (3, 56, 56, 3), dtype=torch.uint8).numpy())
    talk = (Message("user", "?", images=images, image_times_s=TIMES), Message("assistant", text))
    return Lesson(talk, facts)


@pytest.mark.parametrize(
    "lengths, groups", [([10, 30, 12, 31], [[0, 2], [1, 3]]), ([8, 10], [[0, 1]]), ([8, 11], [[0], [1]]), ([], [])]
)
def test_groups_of_like_length(lengths, groups):
    assert of_like_length(lengths) == groups


def test_no_part_is_so_large_that_others_wait_for_it():
    assert [len(group) for group in of_like_length([9] * (2 * MOST + 1))] == [MOST, MOST, 1]


def add_gradients(policy, lessons, dense_weight=0.0, weight=1.0, precision="float32"):
    found = lesson_parts(policy, lessons, dense_weight, weight, precision)
    with Parts(policy.trainable_parameters()) as parts:
        return parts.add_gradients([part.run for part in found])


def test_the_dense_loss_equals_a_reference(policy):
    one = lesson()
    row = policy.layout.encode(one.conversation)
    states = policy.hidden_states([row])
    expected = 0.0
    weight = policy.language.embed_tokens.weight
    ends = list(row.image_ends)
    for candidates, at, truth in (
        (("A", "BB"), ends, (0, 1, 1)),
        (("0.0", "1.0"), ends, (0, 1, 1)),
        (("A", "BB"), [ends[0], ends[2]], (1, 0)),
    ):
        ids = [policy.codec.encode(text)[0] for text in candidates]
        logits = states[0, at] @ weight[ids].T
        expected = expected + functional.cross_entropy(logits, torch.tensor(truth))
    found = dense_loss(policy, states, [row], [one.facts], fact_tokens(policy, [one.facts]))
    assert torch.allclose(found, expected, atol=1e-6)


def test_facts_that_are_no_single_token_are_left_out(policy):
    one = lesson(facts=(Facts(), Facts(LABELS[2], "1.0"), Facts()))
    row = policy.layout.encode(one.conversation)
    states = policy.hidden_states([row])
    only_start = dense_loss(policy, states, [row], [one.facts], fact_tokens(policy, [one.facts]))
    assert float(only_start) == pytest.approx(0.0, abs=1e-6)  # one candidate


def test_the_weight_scales_the_gradient(policy):
    policy.train_language()
    one, grown = lesson(), []
    for weight in (1.0, 0.25):
        for parameter in policy.trainable_parameters():
            parameter.grad = None
        add_gradients(policy, [one], 0.5, weight)
        grown.append(policy.language.embed_tokens.weight.grad.clone())
    assert torch.allclose(0.25 * grown[0], grown[1], atol=1e-7)


def test_grouping_does_not_change_the_gradient(policy):
    policy.train_language()
    lessons = [lesson(text="A"), lesson(text="BB A BB A BB A BB A BB A BB A"), lesson(text="A")]
    assert len(of_like_length([policy.layout.encode(one.conversation).ids.size for one in lessons])) == 2

    def gradients(batches):
        for parameter in policy.trainable_parameters():
            parameter.grad = None
        for batch in batches:
            add_gradients(policy, batch)
        return [p.grad.clone() for p in policy.trainable_parameters() if p.grad is not None]

    grouped = gradients([lessons])
    for parameter in policy.trainable_parameters():
        parameter.grad = None
    logits, _, targets = policy.forward([one.conversation for one in lessons])
    functional.cross_entropy(logits, targets).backward()
    whole = [p.grad for p in policy.trainable_parameters() if p.grad is not None]
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(grouped, whole, strict=True))

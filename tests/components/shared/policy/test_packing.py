"""Packed scoring equals scoring one by one: values, mask and gradients, on a real tiny Qwen2.5-VL."""

import pytest
import torch

from components.shared.policy import packing
from components.shared.policy.interface import Message


def answers(prompt, frames, *, learn=True):
    """Continuations of one prompt: answers of several lengths, one with a crop in between, one forced look."""
    (crop,) = frames(1, size=112)
    say = lambda text, learn=learn: Message("assistant", text, learn=learn)
    seen = Message("tool", "frame 1", images=(crop,))
    return [
        (*prompt, say("Picking")),
        (*prompt, say('{"value": "diagonal"}')),
        (*prompt, say("look"), seen, say('{"value": "horizontal"}')),
        (*prompt, say("look"), seen, say("again"), seen, say("Box")),
        (*prompt, say("look", False), seen, say("Close Box")),
    ]


def one_by_one(policy, conversations):
    results = [policy.token_logprobs([conversation]) for conversation in conversations]
    length = max(values.shape[1] for values, _ in results)
    pad = lambda part: torch.nn.functional.pad(part, (0, length - part.shape[1]))
    return torch.cat([pad(values) for values, _ in results]), torch.cat([pad(mask) for _, mask in results])


def gradient(policy, conversations, score):
    policy.train_language()
    policy.model.zero_grad(set_to_none=True)
    logprobs, mask = score(policy, conversations)
    weights = torch.linspace(-1, 1, len(conversations))[:, None]
    (logprobs * mask * weights).sum().backward()
    return {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}


@pytest.fixture
def batch(question, frames):
    """Two prompts with five continuations each, interleaved, and one conversation of its own."""
    first, second = [answers((question(40),), frames) for _ in range(2)]
    alone = (question(2), Message("assistant", "Scan Label"))
    return [item for pair in zip(first, second) for item in pair] + [alone]


def test_values_mask_and_gradient_are_those_of_one_by_one(policy, batch, monkeypatch):
    used = []
    original = packing.packed_logprobs
    monkeypatch.setattr(
        "components.shared.policy.decoder.packed_logprobs", lambda *given: used.append(1) or original(*given)
    )
    values, mask = policy.token_logprobs(batch)
    assert used == [1]
    wanted, wanted_mask = one_by_one(policy, batch)
    assert used == [1], "one conversation alone is never packed"
    assert torch.equal(mask, wanted_mask)
    assert torch.allclose(values, wanted, atol=2e-5)
    packed = gradient(policy, batch, lambda p, c: p.token_logprobs(c))
    plain = gradient(policy, batch, one_by_one)
    assert packed.keys() == plain.keys()
    for name, grad in plain.items():
        assert torch.allclose(packed[name], grad, atol=1e-4 + 1e-3 * float(grad.abs().max())), name


def test_a_long_group_is_cut_into_several_packs(policy, batch, monkeypatch):
    wanted, _ = policy.token_logprobs(batch)
    monkeypatch.setattr(packing, "LONGEST", 150)
    monkeypatch.setattr(packing, "WORTH", 2.0)
    rows = [policy.layout.encode(conversation) for conversation in batch]
    packs = packing.pack(rows, [[policy.patching.num_tokens(*i.shape[:2]) for i in row.images] for row in rows])
    assert len(packs) > 5
    assert torch.allclose(packing.packed_logprobs(policy, rows, packs)[0], wanted, atol=2e-5)


def test_prompts_that_differ_in_a_pixel_are_not_shared(policy, question):
    asked = question(4)
    changed = asked.images[0].copy()
    changed[0, 0, 0] ^= 255
    other = Message("user", asked.text, images=(changed, *asked.images[1:]), image_times_s=asked.image_times_s)
    rows = [policy.layout.encode((message, Message("assistant", "Box"))) for message in (asked, other)]
    assert packing.pack(rows, [[1] * 4] * 2) is None


def test_distinct_prompts_take_the_plain_path(policy, question):
    rows = [policy.layout.encode((question(4), Message("assistant", "Picking"))) for _ in range(4)]
    assert packing.pack(rows, [[1] * 4] * 4) is None


def test_conversations_without_learned_tokens_score_zero(policy, question, frames):
    silent = answers((question(4),), frames, learn=False)
    values, mask = policy.token_logprobs(silent)
    assert not values.any()
    assert not mask.any()

import shutil
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from components.shared.policy.description import PolicyKind
from components.shared.policy.interface import Message
from components.shared.policy.load import load_policy
from components.shared.policy.packing import pack
from components.shared.runtime.errors import ArtifactError

KINDS = get_args(PolicyKind)


def pytest_generate_tests(metafunc):
    """Every test that takes a policy runs for every kind."""
    for name in ("policy", "shared_policy"):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, KINDS, indirect=True)


def one_by_one(policy, conversations):
    scored = [policy.token_logprobs([conversation]) for conversation in conversations]
    return [values[0][mask[0] > 0] for values, mask in scored]


def margins(policy, conversation, said):
    """Difference of the two largest logits at every token of a greedy continuation, the tokens fed in."""
    with torch.no_grad():
        logits = policy.forward([(*conversation, Message("assistant", token_ids=said.token_ids))]).logits
    top = logits.topk(2, dim=-1).values
    return top[:, 0] - top[:, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gives_the_tokens_of_one_by_one_wherever_the_choice_is_clear(kind, make, question, frames):
    compared = 0
    for seed in range(3):
        policy = make(kind, seed)
        seen = (question(2), Message("assistant", "look", learn=False), Message("tool", "x", images=frames(1, 112)))
        asked = [(question(1 + index, "Picking " * (3 * index + 1)),) for index in range(5)] + [seen]
        together = policy.generate(asked, max_new_tokens=12)
        for conversation, batched in zip(asked, together, strict=True):
            (alone,) = policy.generate([conversation], max_new_tokens=12)
            unclear = (margins(policy, conversation, alone) <= 1e-4).nonzero()
            clear = int(unclear[0]) if len(unclear) else len(alone.token_ids)
            assert batched.token_ids[:clear] == alone.token_ids[:clear]
            compared += clear
    assert compared > 100, "most of the 216 tokens must be compared, or the test says nothing"


def test_generation_with_the_cache_says_what_a_whole_pass_says(shared_policy, question, frames):
    """Greedy tokens are the argmax of the logits computed over the whole text at once."""
    asked = (question(3), Message("assistant", "look", learn=False), Message("tool", "x", images=frames(1, 112)))
    (said,) = shared_policy.generate([asked], max_new_tokens=10)
    with torch.no_grad():
        logits = shared_policy.forward([(*asked, Message("assistant", token_ids=said.token_ids))]).logits
    scores = logits.log_softmax(-1)
    assert np.allclose(said.logprobs, scores.max(-1).values.numpy(), atol=1e-4)


def test_no_token_sees_a_later_one(shared_policy, question, frames):
    """Another ending, later images and later words: what was predicted before is the same to the last bit."""
    begun = (question(3), Message("assistant", "Box"))
    late = Message("tool", "Scan Label", images=frames(1, 112))
    endings = [(*begun, late, Message("assistant", text, learn=False)) for text in ("Picking", "Close Box")]
    changed = (*begun, Message("tool", "Close Box!", images=frames(1, 112)), Message("assistant", "Box", learn=False))
    rows = [shared_policy.layout.encode(item) for item in (*endings, changed)]
    length = len(shared_policy.layout.encode(begun).ids)
    with torch.no_grad():
        logits = [shared_policy.logits(shared_policy.hidden_states([row])[0, :length]) for row in rows]
    finite = torch.isfinite(logits[0])
    assert torch.equal(logits[0][finite], logits[1][finite])
    assert torch.allclose(logits[0][finite], logits[2][finite], atol=1e-5)  # other length, other rounding


def test_the_image_in_a_tool_message_is_seen(shared_policy, question, frames):
    def asked(crop):
        return (question(2), Message("tool", "x", images=(crop,)), Message("assistant", "Box"))

    one = asked(frames(1, 112)[0])
    darker = (one[0], Message("tool", "x", images=(one[1].images[0] // 4,)), one[2])
    first, second = one_by_one(shared_policy, [one, darker])
    assert not torch.allclose(first, second, atol=1e-4)


def test_a_group_with_one_prompt_scores_as_one_by_one(shared_policy, question, frames):
    prompt, (crop,) = (question(40),), frames(1, 112)
    say = lambda text: Message("assistant", text)
    talks = [(*prompt, say(text)) for text in ("Picking", "Box", '{"value": "diagonal"}')]
    talks += [(*prompt, say("look"), Message("tool", "frame 1", images=(crop,)), say("Box"))]
    rows = [shared_policy.layout.encode(talk) for talk in talks]
    tokens = [[shared_policy.patching.num_tokens(*i.shape[:2]) for i in row.images] for row in rows]
    assert pack(rows, tokens) is not None, "this group is worth packing"
    values, mask = shared_policy.token_logprobs(talks)
    for row, kept, wanted in zip(values, mask, one_by_one(shared_policy, talks), strict=True):
        assert torch.allclose(row[kept > 0], wanted, atol=2e-5)


def test_sampled_logprobs_are_those_of_scoring(shared_policy, question):
    asked = [(question(2),), (question(3, "Box"),), (question(2),)]
    sampled = shared_policy.generate(asked, temperature=1.0, max_new_tokens=8, seed=3)
    whole = [(*item, Message("assistant", made.text, token_ids=made.token_ids)) for item, made in zip(asked, sampled)]
    logprobs, mask = shared_policy.token_logprobs(whole)
    assert mask.sum(1).tolist() == [len(item.token_ids) for item in sampled]
    for row, kept, made in zip(logprobs, mask, sampled):
        assert np.allclose(row[kept > 0].numpy(), made.logprobs, atol=1e-4)
    assert float((logprobs * (1 - mask)).abs().sum()) == 0


def test_the_seed_decides_and_rows_of_a_group_differ(shared_policy, question):
    asked = [(question(2),)] * 6
    first = shared_policy.generate(asked, temperature=1.0, max_new_tokens=6, seed=1)
    again = shared_policy.generate(asked, temperature=1.0, max_new_tokens=6, seed=1)
    other = shared_policy.generate(asked, temperature=1.0, max_new_tokens=6, seed=2)
    assert [item.token_ids for item in first] == [item.token_ids for item in again]
    assert [item.token_ids for item in first] != [item.token_ids for item in other]
    assert len({item.token_ids for item in first}) > 1


def test_control_tokens_are_never_sampled(shared_policy, question):
    sampled = shared_policy.generate([(question(1),)] * 64, temperature=5.0, max_new_tokens=12, seed=0)
    allowed_control = {shared_policy.codec.turn_end}
    ids = {number for item in sampled for number in item.token_ids}
    assert not (ids & shared_policy.codec.control) - allowed_control
    assert all(item.token_ids[-1] == shared_policy.codec.turn_end for item in sampled if item.finished)
    assert all(shared_policy.codec.turn_end not in item.token_ids[:-1] for item in sampled)


def test_a_turn_with_new_images_continues(shared_policy, question, frames):
    talk = (question(2), Message("assistant", "Box"), Message("tool", "seen", images=frames(1, 112)))
    assert shared_policy.generate([talk], max_new_tokens=4)[0].token_ids


def test_no_conversations_give_none(shared_policy):
    assert shared_policy.generate([]) == []


def test_padding_changes_nothing(shared_policy, question):
    short, long = (question(1), Message("assistant", "Box")), (question(6, "Picking " * 9), Message("assistant", "Box"))
    alone, mask_alone = shared_policy.token_logprobs([short])
    together, mask = shared_policy.token_logprobs([short, long])
    assert torch.allclose(together[0][mask[0] > 0], alone[0][mask_alone[0] > 0], atol=1e-5)


def test_the_vision_tower_is_frozen_and_only_the_adapter_trains(policy, question):
    assert policy.trainable_parameters() == []
    policy.add_adapter(rank=2, seed=1)
    names = [name for name, parameter in policy.model.named_parameters() if parameter.requires_grad]
    assert names
    assert all(".lora_" in name and ".language_model." in f".{name}" for name in names)
    assert {name.split(".lora_")[0].rsplit(".", 1)[1] for name in names} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    }  # fmt: skip


def test_the_digest_follows_every_change(policy, question):
    seen = {policy.digest}
    policy.add_adapter(rank=2)
    seen.add(policy.digest)
    before = policy.token_logprobs([(question(1), Message("assistant", "Box"))])[0]
    optimizer = torch.optim.SGD(policy.trainable_parameters(), lr=0.1)
    (-before.sum()).backward()
    optimizer.step()
    seen.add(policy.digest)
    assert len(seen) == 3


def test_a_fresh_adapter_changes_no_output_until_it_is_trained(policy, question):
    talk = [(question(1), Message("assistant", "Box"))]
    base = policy.token_logprobs(talk)[0]
    policy.add_adapter(rank=2)
    assert torch.equal(policy.token_logprobs(talk)[0], base)
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter.add_(0.3)
    assert not torch.allclose(policy.token_logprobs(talk)[0], base, atol=1e-3)


def test_gradient_checkpointing_gives_the_same_gradients(policy, question):
    policy.add_adapter(rank=2)
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter.add_(0.05)
    talk = [(question(2), Message("assistant", "Box"))]

    def gradients():
        for parameter in policy.trainable_parameters():
            parameter.grad = None
        policy.token_logprobs(talk)[0].sum().backward()
        return [parameter.grad.clone() for parameter in policy.trainable_parameters()]

    plain = gradients()
    policy.set_gradient_checkpointing(True)
    again = gradients()
    policy.set_gradient_checkpointing(False)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(plain, again))


def test_gradient_checkpointing_leaves_what_is_said_alone(policy, question):
    """transformers drops the cache of a checkpointed model in training: every later token would be said blindly."""
    asked = [(question(2),), (question(3),)]
    plain = policy.generate(asked, max_new_tokens=8)
    policy.set_gradient_checkpointing(True)
    said = policy.generate(asked, max_new_tokens=8)
    assert [one.token_ids for one in said] == [one.token_ids for one in plain]
    assert policy.language.training, "what trains goes on as it was"


def test_a_saved_base_loads_the_same(policy, question, tmp_path):
    policy.save_base(tmp_path)
    loaded = load_policy(tmp_path)
    talk = [(question(2), Message("assistant", "Box"))]
    assert torch.equal(loaded.token_logprobs(talk)[0], policy.token_logprobs(talk)[0])
    assert loaded.digest == policy.digest
    assert loaded.description.labels == policy.description.labels


def test_an_adapter_is_kept_apart_from_its_base(policy, question, tmp_path):
    policy.save_base(tmp_path / "base")
    before = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    policy.add_adapter(rank=2, seed=1)
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter.add_(0.1)
    policy.save_adapter(tmp_path / "adapter")
    loaded = load_policy(tmp_path / "base", tmp_path / "adapter")
    talk = [(question(2), Message("assistant", "Box"))]
    assert loaded.digest == policy.digest
    assert torch.allclose(loaded.token_logprobs(talk)[0], policy.token_logprobs(talk)[0], atol=1e-6)
    assert {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()} == before
    assert not any(".lora_" in name for name in load_file(tmp_path / "base" / "model.safetensors"))


def test_an_incomplete_base_is_refused(policy, tmp_path):
    policy.save_base(tmp_path / "whole")
    needed = ["policy.json", "tokenizer.json", "config.json", "model.safetensors"]
    needed += [] if policy.description.kind == "native" else ["prefix.json", "prefix.safetensors"]
    for name in needed:
        shutil.copytree(tmp_path / "whole", tmp_path / name)
        (tmp_path / name / name).unlink()
        with pytest.raises(ArtifactError):
            load_policy(tmp_path / name)
    for name in (name for name in needed if name.endswith(".safetensors")):
        damaged = tmp_path / f"damaged-{name}"
        shutil.copytree(tmp_path / "whole", damaged)
        whole = (damaged / name).read_bytes()
        (damaged / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ArtifactError):
            load_policy(damaged)


def test_what_sees_images_is_frozen_in_full_training(policy, question):
    policy.train_language()
    trained = {name for name, parameter in policy.model.named_parameters() if parameter.requires_grad}
    sees = ".visual." if policy.description.kind == "native" else ".vision."
    assert trained
    assert not any(sees in f".{name}" for name in trained)
    logits, _, targets = policy.forward([(question(2), Message("assistant", "Box"))])
    torch.nn.functional.cross_entropy(logits, targets).backward()
    without = {n for n, p in policy.model.named_parameters() if p.requires_grad and p.grad is None}
    assert without <= {"refiner.halt.weight", "refiner.halt.bias"}

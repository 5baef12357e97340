import numpy as np
import pytest
import torch

from components.shared.policy.interface import Message
from components.shared.policy.load import load_policy
from components.shared.runtime.errors import ArtifactError


def test_a_batch_gives_the_tokens_of_one_by_one(shared_policy, question):
    asked = [(question(1 + index, "Picking " * (index + 1)),) for index in range(4)]
    together = shared_policy.generate(asked, max_new_tokens=10)
    alone = [shared_policy.generate([item], max_new_tokens=10)[0] for item in asked]
    assert [item.token_ids for item in together] == [item.token_ids for item in alone]


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


def test_logprobs_equal_the_models_own_forward(shared_policy, question):
    """The library's own path (pixels in, its own positions) gives the same log-probabilities."""
    from components.shared.policy.images import patchify

    talk = (question(3), Message("assistant", "Picking Box"))
    encoded = shared_policy.layout.encode(talk)
    patches, grid = patchify(np.stack(encoded.images), shared_policy.patching)
    ids = torch.from_numpy(encoded.ids)[None]
    with torch.no_grad():
        logits = shared_policy.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=torch.from_numpy(encoded.is_image.astype(np.int32))[None],
            pixel_values=patches.flatten(0, 1),
            image_grid_thw=torch.tensor([[1, *grid]] * 3),
        ).logits
        expected = (logits[0, :-1] + shared_policy.allowed).log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        logprobs, mask = shared_policy.token_logprobs([talk])
    assert mask.sum() == len(shared_policy.codec.encode("Picking Box")) + 1
    assert torch.allclose(logprobs[0][mask[0] > 0], expected[mask[0] > 0], atol=1e-4)


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
    assert all(".lora_" in name and ".language_model." in name for name in names)
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


def test_a_fresh_adapter_changes_no_output_and_can_be_set_aside(policy, question):
    talk = [(question(1), Message("assistant", "Box"))]
    base = policy.token_logprobs(talk)[0]
    policy.add_adapter(rank=2)
    assert torch.equal(policy.token_logprobs(talk)[0], base)
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter.add_(0.3)
    assert not torch.allclose(policy.token_logprobs(talk)[0], base, atol=1e-3)
    with policy.without_adapter():
        assert torch.equal(policy.token_logprobs(talk)[0], base)


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


def test_a_saved_base_loads_the_same(policy, question, tmp_path):
    policy.save_base(tmp_path)
    loaded = load_policy(tmp_path)
    talk = [(question(2), Message("assistant", "Box"))]
    assert torch.equal(loaded.token_logprobs(talk)[0], policy.token_logprobs(talk)[0])
    assert loaded.digest == policy.digest
    assert loaded.description.labels == policy.description.labels


@pytest.mark.parametrize("name", ["policy.json", "tokenizer.json", "config.json", "model.safetensors"])
def test_an_incomplete_base_is_refused(policy, tmp_path, name):
    policy.save_base(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError):
        load_policy(tmp_path)

import json

import pytest
import torch

from components.shared.policy import adapters
from components.shared.policy.load import load_policy
from components.shared.runtime.errors import ArtifactError


@pytest.fixture
def based(policy, tmp_path):
    """A policy with a saved base and a trained-looking adapter."""
    policy.save_base(tmp_path / "base")
    policy.add_adapter(rank=2, seed=1)
    disturb(policy, 0.1)
    return policy


def disturb(policy, amount):
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter.add_(amount)


def test_saved_and_loaded_it_is_the_same(based, tmp_path):
    digest = based.save_adapter(tmp_path / "adapter")
    loaded = load_policy(tmp_path / "base", tmp_path / "adapter")
    assert loaded.digest == based.digest
    assert adapters.tensors_digest(loaded.adapter_state()) == digest
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter.json", "adapter_config.json", "adapter_model.safetensors"
    }  # fmt: skip


def test_peft_reads_what_is_saved(based, tmp_path):
    from peft import PeftModel
    from transformers import Qwen2_5_VLForConditionalGeneration

    based.save_adapter(tmp_path / "adapter")
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "base")
    PeftModel.from_pretrained(model, tmp_path / "adapter")
    ours = {name: value for name, value in based.model.named_parameters() if ".lora_" in name}
    theirs = {name: value for name, value in model.named_parameters() if ".lora_" in name}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_swapping_in_place_keeps_the_optimisers_parameters(based, tmp_path):
    based.save_adapter(tmp_path / "one")
    before, parameters = based.digest, based.trainable_parameters()
    disturb(based, 0.5)
    assert based.digest != before
    assert based.load_adapter(tmp_path / "one") == before
    assert all(old is new for old, new in zip(parameters, based.trainable_parameters(), strict=True))


def test_another_rank_replaces_the_adapter(based, tmp_path):
    other = load_policy(tmp_path / "base")
    other.add_adapter(rank=4, seed=2)
    disturb(other, 0.05)
    other.save_adapter(tmp_path / "four")
    based.load_adapter(tmp_path / "four")
    assert based.digest == other.digest
    assert len(based.trainable_parameters()) == len(other.trainable_parameters())


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def of_another_base(path):
    record = json.loads(path.with_name("adapter.json").read_text())
    path.with_name("adapter.json").write_text(json.dumps(record | {"base_digest": "0" * 64}))


@pytest.mark.parametrize(
    "damage, words", [(truncate, "cannot be read"), (flip, "has digest"), (of_another_base, "does not fit")]
)
def test_a_bad_adapter_is_refused_and_the_present_one_stays(based, tmp_path, damage, words):
    based.save_adapter(tmp_path / "bad")
    disturb(based, 0.2)
    before = based.digest
    damage(tmp_path / "bad" / "adapter_model.safetensors")
    with pytest.raises(ArtifactError, match=words):
        based.load_adapter(tmp_path / "bad")
    assert based.digest == before


def test_an_adapter_whose_configuration_lies_is_refused_and_the_present_one_stays(based, tmp_path):
    other = load_policy(tmp_path / "base")
    other.add_adapter(rank=4, seed=2)
    other.save_adapter(tmp_path / "lying")
    config = tmp_path / "lying" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 3}))
    before, digest = based.adapter_state(), based.digest
    with pytest.raises(ArtifactError, match="do not fit"):
        based.load_adapter(tmp_path / "lying")
    assert based.digest == digest
    after = based.adapter_state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(".lora_" in name for name, _ in based.model.named_parameters())


def test_tensors_that_do_not_fit_are_refused_whole(based):
    before = based.digest
    tensors = based.adapter_state()
    name = sorted(tensors)[-1]
    changed = {key: value + 1 for key, value in tensors.items()} | {name: torch.zeros(3, 3)}
    with pytest.raises(ArtifactError, match="1 adapter tensors do not fit"):
        based.set_adapter_state(changed)
    assert based.digest == before


def test_a_policy_without_adapter_says_so(policy, tmp_path):
    with pytest.raises(ArtifactError, match="no adapter"):
        policy.save_adapter(tmp_path)


def test_the_fresh_adapter_depends_on_the_seed(policy):
    policy.add_adapter(rank=2, seed=1)
    one = policy.adapter_state()
    assert all((value == 0).all() for name, value in one.items() if "lora_B" in name)
    assert all((value != 0).any() for name, value in one.items() if "lora_A" in name)

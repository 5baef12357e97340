import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from components.shared.policy.interface import Message
from components.shared.policy.load import load_policy
from components.shared.policy.quantisation import quantisation_config, unquantised_modules
from components.shared.runtime.errors import ConfigError


def test_an_unknown_scheme_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="int3"):
        quantisation_config(tmp_path, Qwen2_5_VLForConditionalGeneration, "int3", torch.float32)


def test_everything_outside_the_language_model_is_named(policy, tmp_path):
    policy.save_base(tmp_path)
    names = unquantised_modules(tmp_path, Qwen2_5_VLForConditionalGeneration)
    assert "lm_head" in names
    assert any(".visual." in name for name in names)
    assert not any(".language_model." in name for name in names)


@pytest.mark.parametrize("scheme, stored", [("nf4", torch.uint8), ("int8", torch.int8)])
def test_the_language_models_layers_are_quantised_and_nothing_else(policy, question, tmp_path, scheme, stored):
    policy.save_base(tmp_path)
    loaded = load_policy(tmp_path, quantisation=scheme)
    assert len(loaded.quantised) == 7 * policy.text_config.num_hidden_layers
    assert all(".language_model.layers." in name for name in loaded.quantised)
    in_bytes = {name.removesuffix(".weight") for name, p in loaded.model.named_parameters() if p.dtype == stored}
    assert in_bytes == set(loaded.quantised)
    loaded.add_adapter(rank=2)
    logprobs, _ = loaded.token_logprobs([(question(2), Message("assistant", "Box"))])
    (-logprobs.sum()).backward()
    assert all(parameter.grad is not None for parameter in loaded.trainable_parameters())
    assert loaded.generate([(question(2),)], max_new_tokens=3)[0].token_ids

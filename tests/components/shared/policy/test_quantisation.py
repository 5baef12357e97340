import pytest
import torch

from components.shared.policy.native import load_policy
from components.shared.policy.quantisation import quantisation_config, unquantised_modules
from components.shared.runtime.errors import ConfigError


def test_an_unknown_scheme_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="int3"):
        quantisation_config(tmp_path, "int3", torch.float32)


def test_everything_outside_the_language_model_is_named(policy, tmp_path):
    policy.save_base(tmp_path)
    names = unquantised_modules(tmp_path)
    assert "lm_head" in names
    assert any(".visual." in name for name in names)
    assert not any(".language_model." in name for name in names)


def test_nf4_quantises_the_language_models_layers_and_nothing_else(policy, question, tmp_path):
    pytest.importorskip("bitsandbytes")
    policy.save_base(tmp_path)
    loaded = load_policy(tmp_path, quantisation="nf4")
    assert len(loaded.quantised) == 7 * policy.model.config.text_config.num_hidden_layers
    assert all(".language_model.layers." in name for name in loaded.quantised)
    loaded.add_adapter(rank=2)
    from components.shared.policy.interface import Message

    logprobs, _ = loaded.token_logprobs([(question(2), Message("assistant", "Box"))])
    (-logprobs.sum()).backward()
    assert all(parameter.grad is not None for parameter in loaded.trainable_parameters())
    assert loaded.generate([(question(2),)], max_new_tokens=3)[0].token_ids

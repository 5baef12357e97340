"""The prefix policy's own parts: aligned tokens, tiles, what is saved, quantised modules."""

import json

import numpy as np
import pytest
import torch

from components.shared.encoders.encoder import Encoder
from components.shared.policy.interface import Message
from components.shared.policy.load import load_policy
from components.shared.policy.prefix_model import Tiling, tiles
from components.shared.policy.quantisation import quantised_modules
from components.shared.runtime.errors import ArtifactError, ConfigError

PREFIXES = ("prefix", "prefix_trm", "trm_decoder")


@pytest.fixture
def prefix(make):
    return make("prefix")


def test_tokens_are_those_of_the_alignment_encoder(prefix, aligned, frames):
    images = np.stack(frames(3))
    tokens = prefix.encode_images(images)
    assert tokens.shape == (3, 1, 16)
    expected = torch.from_numpy(Encoder(aligned, "d").embed_frames(images)[16])
    assert torch.allclose(torch.nn.functional.normalize(tokens[:, 0], dim=-1), expected, atol=1e-5)


def test_a_crop_is_seen_tile_by_tile(prefix, frames):
    quarters = frames(4)
    whole = np.concatenate([np.concatenate(quarters[:2], 1), np.concatenate(quarters[2:], 1)], 0)
    assert prefix.patching.num_tokens(112, 112) == 4
    together, apart = prefix.encode_images(whole[None])[0], prefix.encode_images(np.stack(quarters))[:, 0]
    assert torch.allclose(together, apart, atol=1e-5)


@pytest.mark.parametrize(
    "size, number", [((56, 56), 1), ((60, 50), 1), ((112, 56), 2), ((20, 20), 1), ((900, 900), 64)]
)
def test_other_sizes_become_whole_tiles(size, number):
    tiling = Tiling(56, 1, 1, 56 * 56, (8 * 56) ** 2)
    image = np.full((1, *size, 3), 77, np.uint8)
    assert tiling.num_tokens(*size) == number
    cut = tiles(image, tiling)
    assert cut.shape == (number, 56, 56, 3)
    assert (cut == 77).all()


def test_a_tower_with_patches_gives_all_its_tokens(aligned, make, frames):
    from components.shared.encoders.model import build_model
    from components.shared.policy.tiny import TinySize, build_tiny_prefix

    tower = aligned.config.vision_tower.model_copy(update={"tokens": "patches"})
    encoder = build_model(aligned.config.model_copy(update={"vision_tower": tower}), ["a"])
    size = TinySize(hidden=32, layers=1, heads=2, kv_heads=1, intermediate=32)
    policy = build_tiny_prefix(("A",), encoder, "d", size=size, vocabulary=300)
    assert policy.patching.num_tokens(56, 56) == 17
    assert policy.generate([(Message("user", "?", images=frames(2), image_times_s=(0.0, 0.3)),)], max_new_tokens=2)


def test_calibrated_tokens_are_centred_and_of_norm_one(prefix, frames):
    images = [image // (1 + index % 4) for index, image in enumerate(frames(40))]
    prefix.calibrate(images)
    tokens = torch.cat(prefix.features.encode(images))
    scaled = (tokens - prefix.model.centre) / prefix.model.spread
    assert torch.allclose(scaled.mean(0), torch.zeros(16), atol=1e-4)
    assert float(scaled.norm(dim=1).mean()) == pytest.approx(1.0, abs=1e-4)


def test_the_alignment_pooling_is_not_carried_along(prefix, tmp_path):
    from safetensors.torch import load_file

    prefix.save_base(tmp_path)
    names = load_file(tmp_path / "prefix.safetensors").keys()
    assert {name.split(".")[0] for name in names} == {"vision", "vision_proj", "centre", "spread"}
    assert not any(".pool." in name for name in names)
    assert json.loads((tmp_path / "prefix.json").read_text())["encoder_digest"] == "d" * 64


@pytest.mark.parametrize("change", [{"format": "other"}, {"refiner": {"width": 32}}])
def test_a_card_that_does_not_fit_is_refused(prefix, tmp_path, change):
    prefix.save_base(tmp_path)
    card = json.loads((tmp_path / "prefix.json").read_text())
    (tmp_path / "prefix.json").write_text(json.dumps(card | change))
    with pytest.raises(ArtifactError, match=r"prefix\.(json|safetensors)"):
        load_policy(tmp_path)


def test_refinement_is_part_of_every_logit(make, question):
    policy = make("prefix_trm")
    talk = [(question(2), Message("assistant", "Box"))]
    before = policy.token_logprobs(talk)[0]
    policy.model.refiner.z_start.add_(1.0)
    assert not torch.allclose(policy.token_logprobs(talk)[0], before, atol=1e-4)
    with torch.no_grad():
        policy.model.refiner.up_proj.weight.zero_()
    plain = make("prefix")
    plain.model.load_state_dict({k: v for k, v in policy.model.state_dict().items() if not k.startswith("refiner.")})
    assert torch.equal(policy.token_logprobs(talk)[0], plain.token_logprobs(talk)[0])


@pytest.mark.parametrize("kind, number", [("prefix", 1), ("prefix_trm", 2), ("trm_decoder", 2)])
def test_pretraining_supervises_every_step_of_the_recursion(make, question, kind, number):
    policy = make(kind)
    rows = [policy.layout.encode((question(2), Message("assistant", "Box")))]
    finals, _ = policy.pretraining_states(rows)
    where, _ = policy.learned(rows, finals[0].shape[1])
    logits = [item for states in finals for item in policy.supervised(states[:, :-1][where])]
    assert len(logits) == number
    answer = policy.forward([(question(2), Message("assistant", "Box"))]).logits
    assert logits[-1].shape == answer.shape
    assert torch.allclose(logits[-1], policy.logits_at(policy.hidden_states(rows), rows).logits, atol=1e-5)


@pytest.mark.parametrize("kind", ["prefix", "prefix_trm"])
@pytest.mark.parametrize("scheme, stored", [("nf4", torch.uint8), ("int8", torch.int8)])
def test_only_the_language_models_layers_are_quantised(make, question, tmp_path, kind, scheme, stored):
    policy = make(kind)
    policy.save_base(tmp_path)
    loaded = load_policy(tmp_path, quantisation=scheme)
    assert len(loaded.quantised) == 7 * policy.text_config.num_hidden_layers
    assert all(name.startswith("language_model.model.layers.") for name in loaded.quantised)
    in_bytes = {name.removesuffix(".weight") for name, p in loaded.model.named_parameters() if p.dtype == stored}
    assert in_bytes == set(loaded.quantised) == set(quantised_modules(loaded.model))
    loaded.add_adapter(rank=2)
    logprobs, _ = loaded.token_logprobs([(question(2), Message("assistant", "Box"))])
    (-logprobs.sum()).backward()
    assert all(parameter.grad is not None for parameter in loaded.trainable_parameters())
    assert loaded.generate([(question(2),)], max_new_tokens=3)[0].token_ids


def test_the_recursive_decoder_refuses_quantisation(make, tmp_path):
    make("trm_decoder").save_base(tmp_path)
    with pytest.raises(ConfigError, match="quantisation nf4"):
        load_policy(tmp_path, quantisation="nf4")


def test_a_qwen3_language_model_serves_as_well(prefix, question, tmp_path):
    """The language model is whatever causal Qwen the folder holds."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    old = prefix.text_config
    prefix.save_base(tmp_path)
    config = Qwen3Config(
        vocab_size=old.vocab_size, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    policy = load_policy(tmp_path)
    assert type(policy.language).__name__ == "Qwen3Model"
    policy.add_adapter(rank=2)
    values, mask = policy.token_logprobs([(question(2), Message("assistant", "Box"))])
    assert int(mask.sum()) == 2
    assert values.sum() < 0

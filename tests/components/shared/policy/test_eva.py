"""Ranks from data on a real tiny Qwen2.5-VL: the budget holds, directions are those of an SVD, nothing else changes."""

import pytest
import torch

from components.shared.policy.eva import apply_components, data_components
from components.shared.policy.interface import Message
from components.shared.policy.load import load_policy
from components.shared.runtime.errors import InputError

RANK, RHO = 4, 2.0


def batches(policy, question, number=3):
    words = ("Picking", "Close Box", "Scan Label", "look", '{"value": "diagonal"}', "Box Picking Label")
    rows = []
    for index in range(number):
        talks = [(question(1 + (index + at) % 3, word), Message("assistant", word)) for at, word in enumerate(words)]
        rows.append([policy.layout.encode(talk) for talk in talks])
    return rows


@pytest.fixture
def ranked(policy, question, tmp_path):
    policy.save_base(tmp_path / "base")
    policy.add_adapter(rank=RANK, seed=1)
    data = batches(policy, question)
    components = data_components(policy, data, rho=RHO, tau=0.9)
    return policy, data, {name: rows.clone() for name, rows in components.items()}


def test_ranks_share_one_budget_under_a_ceiling(ranked):
    policy, _, components = ranked
    ranks = apply_components(policy, components)
    assert sum(ranks.values()) == RANK * len(ranks)
    assert max(ranks.values()) <= RANK * RHO
    assert len(set(ranks.values())) > 1
    assert all(".language_model." in name and "visual" not in name for name in ranks)
    made = {
        name.split(".lora_A")[0]: parameter.shape[0]
        for name, parameter in policy.model.named_parameters()
        if ".lora_A." in name
    }
    assert made == {name: rank for name, rank in ranks.items() if rank}


def test_directions_are_the_leading_ones_of_the_layers_inputs(policy, question):
    """One layer's inputs on all learned tokens, gathered by our own hook; its A spans their leading directions."""
    policy.add_adapter(rank=RANK, seed=1)
    rows = [row for batch in batches(policy, question) for row in batch]
    seen = []
    layer = policy.language.layers[0].self_attn.q_proj
    handle = layer.register_forward_hook(lambda _module, given, _out: seen.append(given[0].detach()))
    policy.hidden_states(rows)
    handle.remove()
    learned = torch.cat([seen[0][index, at - 1] for index, row in enumerate(rows) for at in row.learn.nonzero()])
    components = data_components(policy, [rows, rows], rho=RHO, tau=0.9)
    found = next(value for name, value in components.items() if name.endswith("layers.0.self_attn.q_proj"))
    _, _, directions = torch.linalg.svd(learned - learned.mean(0), full_matrices=False)
    assert len(found) >= 1
    assert abs(float(found[0] @ directions[0])) > 0.99


def test_outputs_are_unchanged_until_training_and_survive_saving(ranked, question, tmp_path):
    policy, _, components = ranked
    talk = [(question(2), Message("assistant", "Box"))]
    base = load_policy(tmp_path / "base").token_logprobs(talk)[0]
    apply_components(policy, components)
    assert torch.allclose(policy.token_logprobs(talk)[0], base, atol=1e-6)
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter.add_(0.05)
    trained = policy.token_logprobs(talk)[0]
    assert not torch.allclose(trained, base, atol=1e-3)
    policy.save_adapter(tmp_path / "adapter")
    again = load_policy(tmp_path / "base", tmp_path / "adapter")
    assert torch.allclose(again.token_logprobs(talk)[0], trained, atol=1e-6)


def test_the_same_data_gives_the_same_directions(ranked):
    policy, data, components = ranked
    again = data_components(policy, data, rho=RHO, tau=0.9)
    assert again.keys() == components.keys()
    assert all(torch.equal(again[name], rows) for name, rows in components.items())


def test_too_few_tokens_is_an_error(policy, question):
    policy.add_adapter(rank=RANK, seed=1)
    short = [[policy.layout.encode((question(1), Message("assistant", "Box")))]]
    with pytest.raises(InputError, match="a batch has 2 tokens to look at"):
        data_components(policy, short, rho=RHO)

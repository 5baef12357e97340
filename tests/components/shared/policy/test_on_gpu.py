"""Policies on a CUDA device: number types, bitsandbytes' kernels, batches that fit. Skipped where there is none."""

import importlib.util

import pytest
import torch

from components.shared.policy import generation
from components.shared.policy.interface import Message
from components.shared.policy.load import load_policy

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="the extra `gpu` is not installed"),
]
SCHEMES = ("none", "nf4", "int8")


@pytest.fixture
def base(make, tmp_path):
    make("native").save_base(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture(params=SCHEMES)
def policy(request, base):
    return load_policy(base, device="cuda", quantisation=request.param)


def test_only_the_decoder_is_quantised_and_answers_stay_near_those_of_the_cpu(policy, base, question, request):
    exact = load_policy(base)
    talk = [(question(3), Message("assistant", "Close Box"))]
    on_gpu, on_cpu = policy.token_logprobs(talk)[0].cpu(), exact.token_logprobs(talk)[0]
    assert torch.isfinite(on_gpu).all()
    assert (on_gpu - on_cpu).abs().max() < (0.05 if not policy.quantised else 0.5)
    assert all("language_model" in name for name in policy.quantised)
    assert bool(policy.quantised) == ("none" not in request.node.callspec.id)


def losses_of(policy, talk):
    """Of an adapter in training."""
    policy.add_adapter(rank=4)
    policy.set_gradient_checkpointing(True)
    optimizer = torch.optim.AdamW(policy.trainable_parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = -policy.token_logprobs(talk)[0].sum()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_an_adapter_learns_as_on_the_cpu_and_is_read_there(policy, base, question, tmp_path):
    talk = [(question(2), Message("assistant", "Scan Label"))] * 2
    losses, exact = losses_of(policy, talk), losses_of(load_policy(base), talk)
    assert losses[-1] < losses[0] - 2
    assert max(abs(one - other) for one, other in zip(losses, exact, strict=True)) < 0.05 * exact[0]
    digest = policy.save_adapter(tmp_path / "adapter")
    read = load_policy(base, tmp_path / "adapter")
    assert (tmp_path / "adapter").is_dir()
    assert read.device.type == "cpu"
    assert digest == read.save_adapter(tmp_path / "again")


def test_generation_in_small_batches_says_the_same_and_a_seed_repeats(policy, question, monkeypatch):
    asked = [(question(1 + index),) for index in range(3)] * 3
    whole = policy.generate(asked, max_new_tokens=6)
    sampled = policy.generate(asked, temperature=1.0, max_new_tokens=6, seed=7)
    again = policy.generate(asked, temperature=1.0, max_new_tokens=6, seed=7)
    assert [said.token_ids for said in sampled] == [said.token_ids for said in again]
    monkeypatch.setattr(generation, "CACHE_SHARE", 1e-9)
    parts = policy.generate(asked, max_new_tokens=6)
    same = sum(one.token_ids == other.token_ids for one, other in zip(whole, parts, strict=True))
    assert same >= 6, "batches of another size may round another way, but not everywhere"

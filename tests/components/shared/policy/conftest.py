from functools import cache

import numpy as np
import pytest
import torch

from components.shared.policy.interface import Message
from components.shared.policy.shapes import RecursionShape
from components.shared.policy.tiny import TinySize, build_tiny, build_tiny_prefix

LABELS = ("Picking", "Close Box", "Scan Label", "Box")
ASK = "Which operation is under way?"
SMALL = TinySize(
    hidden=64, layers=2, heads=2, kv_heads=1, intermediate=64, vision_hidden=32, vision_depth=2, vision_heads=2
)
RECURSION = RecursionShape(width=32, slots=2, heads=2, layers=1, latent_steps=2, cycles=2, supervised_steps=2)
TEXTS = {"choices": ("horizontal", "diagonal"), "phrases": (ASK,), "vocabulary": 300}


@cache
def alignment():
    """A tiny alignment model with random weights; nobody may change it."""
    from components.shared.encoders.config import EncoderConfig
    from components.shared.encoders.model import build_model

    config = EncoderConfig.model_validate(
        {
            "widths": (8, 16),
            "num_latents": 2,
            "vision_tower": {"hidden": 32, "heads": 2, "layers": 1},
            "text_tower": {"hidden": 32, "heads": 2, "layers": 1, "vocabulary": 300},
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return build_model(config, ["picking", "closing"]).eval()


def tiny(kind="native", seed=0, **recursion):
    if kind == "native":
        return build_tiny(LABELS, size=SMALL, seed=seed, **TEXTS)
    shape = RECURSION.model_copy(update=recursion)
    return build_tiny_prefix(LABELS, alignment(), "d" * 64, kind=kind, size=SMALL, recursion=shape, seed=seed, **TEXTS)


@cache
def shared(kind):
    """A tiny policy that tests must not change."""
    return tiny(kind)


@pytest.fixture
def make():
    """make(kind, seed, **recursion) -> a policy of the test's own."""
    return tiny


@pytest.fixture
def aligned():
    """The alignment model that prefix policies stand on; nobody may change it."""
    return alignment()


@pytest.fixture
def shared_policy(request):
    """A policy that tests must not change; native unless the test asks for kinds."""
    return shared(getattr(request, "param", "native"))


@pytest.fixture
def policy(request):
    return tiny(getattr(request, "param", "native"))


@pytest.fixture
def frames():
    rng = np.random.default_rng(0)

    def make(number, size=56):
        return tuple(rng.integers(0, 255, (size, size, 3), dtype=np.uint8) for _ in range(number))

    return make


@pytest.fixture
def question(frames):
    def make(number=4, text=ASK):
        return Message("user", text, images=frames(number), image_times_s=tuple(i * 0.3 for i in range(number)))

    return make

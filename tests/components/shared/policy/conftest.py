import numpy as np
import pytest

from components.shared.policy.interface import Message
from components.shared.policy.tiny import TinySize, build_tiny

LABELS = ("Picking", "Close Box", "Scan Label", "Box")
ASK = "Which operation is under way?"
SMALL = TinySize(
    hidden=64, layers=2, heads=2, kv_heads=1, intermediate=64, vision_hidden=32, vision_depth=2, vision_heads=2
)


def tiny(seed=0):
    return build_tiny(LABELS, choices=("horizontal", "diagonal"), phrases=(ASK,), size=SMALL, seed=seed, vocabulary=300)


@pytest.fixture(scope="session")
def shared_policy():
    """A tiny policy that tests must not change."""
    return tiny()


@pytest.fixture
def policy():
    return tiny()


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

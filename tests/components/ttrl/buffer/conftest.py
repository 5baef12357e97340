"""Buffers of small experiences, and the simulated disks (imported by the tests of this folder)."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from components.ttrl.buffer import BufferConfig, Experience, ExperienceBuffer

SOAK = os.environ.get("PIXELIS_SOAK") == "1"


@pytest.fixture
def config():
    """Four dimensions, small segments, nothing in the background."""
    return BufferConfig(dimension=4, segment_bytes=4096, preallocate=False, background=False, min_free_bytes=0)


@pytest.fixture
def make():
    """A function that makes an experience; its vector points mostly along one axis."""
    generator = np.random.default_rng(0)

    def build(number=0, dimension=4, **fields):
        vector = generator.standard_normal(dimension).astype(np.float32)
        fields.setdefault("question", f"question {number}")
        return Experience(
            **{"visual": vector, "source": f"source{number % 3}", "label": f"label{number % 2}", **fields}
        )

    return build


@pytest.fixture
def opened(tmp_path, config):
    """An open buffer in a fresh directory, closed after the test."""
    with ExperienceBuffer.open(tmp_path / "buffer", config) as buffer:
        yield buffer


@pytest.fixture
def inline_builder(monkeypatch):
    """Index rebuilds run in this process: starting a Python costs seconds. Tests of the process itself do without."""
    from components.ttrl.buffer.index import builder, rebuild

    class Finished:
        stderr = None
        returncode = 0

        def __init__(self, command, **_):
            rebuild.follow(Path(command[-1]))
            self.stderr = (Path(command[-1]).parent / "order.tmp").open("rb")
            self.stderr.seek(0, 2)

        def poll(self):
            return 0

        wait = kill = poll

    monkeypatch.setattr(builder.subprocess, "Popen", Finished)

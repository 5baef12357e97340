"""Work in the background waits for a better moment where it would be done in vain."""

import time

import numpy as np
import pytest

from components.ttrl.buffer import BufferConfig, Experience, ExperienceBuffer
from components.ttrl.buffer import maintenance as module
from components.ttrl.buffer.maintenance import BUILD_GROWTH, BUILD_S


class Clock:
    """Seconds that pass only when told; everything else of the module `time`."""

    def __init__(self):
        self.now = time.monotonic()

    def monotonic(self):
        return self.now


@pytest.fixture
def tended(tmp_path, monkeypatch):
    """A function: so many appends in so many seconds, and whether the index was looked after then."""
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    buffer = ExperienceBuffer.open(tmp_path / "b", BufferConfig(dimension=4, background=False))
    calls = []
    buffer._maintenance.index_due = lambda: calls.append(clock.now)

    def tick(count, seconds):
        for _ in range(count):
            buffer.append(Experience(question="?", visual=np.ones(4, np.float32)))
        clock.now += seconds
        buffer._maintenance._tend_index()
        return bool(calls) and calls[-1] == clock.now

    yield tick
    buffer.close()


def test_an_index_is_not_begun_while_it_would_soon_be_out_of_date_and_is_when_growth_slows(tended):
    assert tended(0, 1.0)  # nothing there, nothing in vain
    assert not tended(100, 1.0)
    assert not tended(100, 1.0)
    assert tended(0, 1.0)
    share = BUILD_GROWTH / BUILD_S  # of the records in a second
    assert tended(int(200 * share), 1.0)
    assert not tended(int(3 * 220 * share), 1.0)
    assert tended(int(3 * 286 * share), 5.0)

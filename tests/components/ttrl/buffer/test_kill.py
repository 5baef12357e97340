"""kill -9 at random moments under sixteen writers: what was acknowledged is there, whole, once.

PIXELIS_SOAK=1 kills 200 times for each kind of writers, in four parts (`-k "kill_9 and loop and 2"` is one of them).
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import SOAK

from components.ttrl.buffer import BufferConfig, Experience, ExperienceBuffer

PARTS, KILLS = (4, 50) if SOAK else (1, 2)
WRITER = """
import asyncio, sys, threading, numpy as np
from pathlib import Path
from components.ttrl.buffer import BufferConfig, Experience, ExperienceBuffer
root, kind, capacity = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
config = BufferConfig(dimension=8, segment_bytes=1 << 16, snapshot_interval=50, snapshot_duty=1.0, min_free_bytes=0,
                      capacity_records=capacity, eviction="oldest", compaction_dead_share=0.2)
buffer = ExperienceBuffer.open(root, config)
lock = threading.Lock()
def made(k, i):
    e = Experience(question=f"{k}-{i}", visual=np.full(8, k + 1.0), source=str(k), confidence=(i % 100) / 100)
    return e, [b"frame %d" % (i % 9) * 30] if i % 3 == 0 else []
def told(e, sequence):
    with lock:
        sys.stdout.write(f"{e.id} {e.question} {sequence}\\n"); sys.stdout.flush()
def write(k):
    i = 0
    while True:
        e, frames = made(k, i)
        told(e, buffer.append(e, frames))
        i += 1
async def write_async(k):
    i = 0
    while True:
        e, frames = made(k, i)
        told(e, await buffer.append_async(e, frames))
        i += 1
async def writers():
    await asyncio.gather(*(write_async(k) for k in range(16)))
if kind == "loop":
    asyncio.run(writers())
for k in range(16):
    threading.Thread(target=write, args=(k,), daemon=True).start()
threading.Event().wait()
"""


def killed(command, after_s):
    """Run writers, kill them so long after the first acknowledgement; returns what they said: (id, question, sequence).

    All they say is read while they say it: a full pipe would stop them, and the kill would hit idle writers.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4]), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        said = [process.stdout.readline()]
        assert said[0]
        reader = threading.Thread(target=lambda: said.append(process.stdout.read()))
        reader.start()
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        reader.join()
    lines = b"".join(said).decode().split("\n")[:-1]  # what is behind the last end of a line was cut
    return [(identity, question, int(sequence)) for identity, question, sequence in map(str.split, lines)]


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize(("kind", "capacity"), [("threads", 400), ("loop", 400), ("loop", 10_000_000)])
def test_kill_9_under_sixteen_writers(tmp_path, kind, capacity, part):
    """But for what the eviction policy took: the oldest."""
    root = tmp_path / "b"
    config = BufferConfig(
        dimension=8, segment_bytes=1 << 16, min_free_bytes=0, capacity_records=capacity, background=False
    )
    generator = random.Random(part)
    command = [sys.executable, "-c", WRITER, str(root), kind, str(capacity)]
    written = 0
    for round_number in range(KILLS):
        acknowledged = killed(command, generator.random() * 0.3)
        written += len(acknowledged)
        assert len({identity for identity, _, _ in acknowledged}) == len({s for _, _, s in acknowledged})
        with ExperienceBuffer.open(root, config) as buffer:
            assert not buffer.recovery.damages, f"round {round_number}"
            ids = buffer.ids()
            assert len(acknowledged) <= capacity or len(ids) >= capacity - 32
            assert 0 < len(ids) <= capacity
            oldest = buffer.get(ids[0]).sequence
            for identity, question, sequence in acknowledged:
                if sequence >= oldest:
                    found = buffer.get(identity)
                    assert found.question == question and found.sequence == sequence
                    assert len(buffer.frames(identity)) == len(found.frames)
            if capacity > 400:  # nothing is evicted
                assert {identity for identity, _, _ in acknowledged} <= set(ids)
            some = Experience(question="x", visual=np.ones(8), source="3")
            buffer.append(some)
            near = buffer.search_knn(np.arange(8.0), len(buffer))
            assert {n.id for n in near} == set(buffer.ids())
        if capacity > 400 and round_number % 5 == 4:  # it grows and grows
            shutil.rmtree(root)
    assert written > 20 * KILLS

"""Traffic at a fixed capacity: memory, descriptors and disk stay flat (PIXELIS_SOAK=1: many times longer)."""

import importlib.util
from pathlib import Path

from conftest import SOAK
from simulated_disk import FastDisk


def test_memory_descriptors_and_disk_stay_flat(tmp_path, inline_builder):
    path = Path(__file__).parents[4] / "benchmarks" / "buffer_soak.py"
    spec = importlib.util.spec_from_file_location("buffer_soak", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.CAPACITY = 2000 if SOAK else 300
    lines = []
    count = 300_000 if SOAK else 4000
    rounds = module.soak(tmp_path / "b", count, background=SOAK, report=lines.append, disk=FastDisk())
    memory, _, disk = module.drift(rounds)
    # a dozen and a segment or two more, as compaction comes and goes
    assert max(row[1] for row in rounds[-5:]) <= max(row[1] for row in rounds[:5]) + 16, "\n".join(lines)
    assert memory <= 1.1, "\n".join(lines)
    assert disk <= 1.35, "\n".join(lines)
    last = rounds[-1]
    assert last[2] < 3 * last[3] + (4 << 20), "\n".join(lines)

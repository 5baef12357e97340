"""A day of traffic compressed: appends, reads, updates, searches, samples, erasures, restarts at a fixed capacity.

Memory, file descriptors and disk must be flat: prints them per round and the drift of the second half.

    python benchmarks/buffer_soak.py --operations 200000
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from components.ttrl.buffer import BufferConfig, Experience, ExperienceBuffer, IndexConfig, RecordNotFoundError

CAPACITY = 2000
ROUNDS = 20


def soak(folder, operations, *, background=True, report=print, disk=None):
    """Run; returns per round (memory MiB, descriptors, disk bytes, live bytes)."""
    generator = np.random.default_rng(0)
    config = BufferConfig(
        dimension=64,
        segment_bytes=1 << 20,
        capacity_records=CAPACITY,
        eviction="oldest",
        background=background,
        snapshot_interval=500,
        snapshot_duty=0.3,
        compaction_dead_share=0.3,
        compaction_bytes_per_s=1 << 30,
        min_free_bytes=0,
        index=IndexConfig(flat_limit=500, rebuild_tail=1000, matryoshka_width=16),
    )
    buffer = ExperienceBuffer.open(folder, config, disk=disk)
    ids, rounds = [], []
    for number in range(ROUNDS):
        for step in range(operations // ROUNDS):
            kind = step % 10
            if kind < 5:
                e = Experience(
                    question="q" * 300,
                    visual=generator.standard_normal(64),
                    source=f"s{step % 7}",
                    subject=f"person {number}-{step // 500}",
                    confidence=float(generator.random()),
                )
                buffer.append(e, [generator.bytes(2000)] if step % 3 == 0 else [])
                ids.append(e.id)
            elif kind == 5:
                buffer.search_knn(generator.standard_normal(64), 10)
            elif kind == 6:
                buffer.sample(4)
            else:
                identity = ids[int(generator.integers(max(0, len(ids) - CAPACITY // 2), len(ids)))]
                try:
                    if kind == 7:
                        buffer.update(identity, reward=float(generator.random()))
                    elif kind == 8:
                        buffer.update(identity, label=f"label {step % 9}")
                    elif step % 50 == 9:
                        buffer.remove(identity)
                    else:
                        buffer.get(identity)
                except RecordNotFoundError:
                    pass
        buffer.erase(subjects=[f"person {number}-0"])
        del ids[: -2 * CAPACITY]
        if not background:
            while buffer.compact():
                pass
        elif number % 4 == 3:
            time.sleep(0.2)
        if number % 5 == 4:
            buffer.close()
            buffer = ExperienceBuffer.open(folder, config, disk=disk)
        stats = buffer.stats()
        memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        used = sum(p.stat().st_blocks * 512 for p in Path(folder).rglob("*") if p.is_file())
        rounds.append((memory, len(list(Path("/proc/self/fd").iterdir())), used, stats["live_bytes"]))
        report(
            f"round {number}: {len(buffer)} records, {memory:.0f} MiB, {rounds[-1][1]} descriptors,"
            f" disk {used >> 10} KiB,"
            f" live {stats['live_bytes'] >> 10} KiB, index {stats['index']['kind']}, {stats['maintenance']}"
        )
    buffer.close()
    return rounds


def drift(rounds):
    """Means of the last quarter over the third: (memory, descriptors, disk)."""
    table = np.array(rounds, float)
    quarter = len(table) // 4
    return tuple(table[-quarter:].mean(0)[:3] / table[-2 * quarter : -quarter].mean(0)[:3])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--operations", type=int, default=200_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        rounds = soak(Path(folder) / "b", options.operations)
        memory, descriptors, used = drift(rounds)
        print(
            f"{options.operations} operations in {time.perf_counter() - start:.0f} s; last quarter over the one before:"
        )
        print(f"memory x{memory:.3f}, descriptors x{descriptors:.3f}, disk x{used:.3f}")


if __name__ == "__main__":
    main()

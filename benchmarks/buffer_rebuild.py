"""k-NN latency while the index is rebuilt by its niced process, against the same without: p50 and p99, in alternation.

python benchmarks/buffer_rebuild.py --records 100000 --rounds 3
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from buffer_plug import load

from components.ttrl.buffer import BufferConfig, ExperienceBuffer, IndexConfig


def clusters(count, dimension, seed=0):
    """Unit vectors around centres, energy decaying over the dimensions."""
    generator = np.random.default_rng(seed)
    scale = (1 / (1 + np.arange(dimension) / 48)).astype(np.float32)
    centres = generator.standard_normal((max(50, count // 100), dimension), dtype=np.float32) * scale
    vectors = np.empty((count, dimension), np.float32)
    for start in range(0, count, 65_536):
        part = vectors[start : start + 65_536]
        noise = generator.standard_normal(part.shape, dtype=np.float32)
        part[:] = centres[generator.integers(0, len(centres), len(part))] + 0.7 * noise * scale
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def latencies(buffer, queries, seconds, stop=lambda: False):
    """Seconds of each search."""
    taken, until, i = [], time.perf_counter() + seconds, 0
    while time.perf_counter() < until and not stop():
        start = time.perf_counter()
        buffer.search_knn(queries[i % len(queries)], 10)
        taken.append(time.perf_counter() - start)
        i += 1
        time.sleep(0.0005)
    return np.array(taken) * 1e6


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--kind", default="auto")
    options = parser.parse_args()
    vectors = clusters(options.records, options.dimension)
    queries = clusters(1000, options.dimension, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        config = BufferConfig(
            dimension=options.dimension, background=False, preallocate=False, index=IndexConfig(kind=options.kind)
        )
        with ExperienceBuffer.open(Path(folder) / "b", config) as buffer:
            load(buffer, vectors)
            buffer.rebuild_index()
            print("index", buffer.stats()["index"])
            ratios = []
            for number in range(options.rounds):
                quiet = latencies(buffer, queries, options.seconds)
                buffer._index._start()
                busy = latencies(buffer, queries, options.seconds)
                running = buffer._index.builder.process.poll() is None
                buffer._index.builder.abandon(delete=False)
                q, b = np.percentile(quiet, [50, 99]), np.percentile(busy, [50, 99])
                ratios.append(b[1] / q[1])
                print(
                    f"round {number}: without p50 {q[0]:.0f} p99 {q[1]:.0f} us;"
                    f" during p50 {b[0]:.0f} p99 {b[1]:.0f} us;"
                    f" p99 ratio {ratios[-1]:.2f}; still building at the end: {running}"
                )
            print(f"median p99 ratio {np.median(ratios):.2f}")


if __name__ == "__main__":
    main()

"""The buffer's flat and IVF search on a GPU beside the same index on the processor: one query at a time, k = 10.

    python benchmarks/gpu_search.py --records 10000 100000 1000000

Vectors are random, 512 wide, of unit length. Medians and 99th percentiles over `--queries` searches through the
buffer's own adapter, after 20 untimed ones; `same` is the share of neighbours that both found.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np

from components.ttrl.buffer.index.kinds import FaissIndex, Spec, build, to_gpu


def searched(index: FaissIndex, queries: np.ndarray) -> tuple[list[float], list[set[int]]]:
    """(seconds of each search, what each found)."""
    seconds, found = [], []
    for number, query in enumerate((*queries[:20], *queries)):
        began = time.perf_counter()
        rows, _ = index.search(query, 10)
        if number >= 20:
            seconds.append(time.perf_counter() - began)
            found.append(set(rows.tolist()))
    return seconds, found


def figures(seconds: list[float]) -> dict[str, float]:
    """Median and 99th percentile in microseconds."""
    return {
        "median_us": round(1e6 * float(np.median(seconds))),
        "p99_us": round(1e6 * float(np.quantile(seconds, 0.99))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--kinds", nargs="+", default=["flat", "ivf"])
    parser.add_argument("--queries", type=int, default=500)
    given = parser.parse_args()
    draw = np.random.default_rng(0)
    for count in given.records:
        vectors = draw.standard_normal((count, 512), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        queries = vectors[draw.integers(count, size=given.queries)] + 0.05 * draw.standard_normal(
            (given.queries, 512), dtype=np.float32
        )
        for kind in given.kinds:
            built = build(Spec(kind=kind, dimension=512, euclidean=False), vectors)
            on_cpu, first = searched(built, queries)
            device = to_gpu(built)
            on_gpu, second = searched(device, queries)
            same = np.mean([len(one & other) / 10 for one, other in zip(first, second, strict=True)])
            result: dict[str, Any] = {
                "records": count,
                "kind": kind,
                "processor": figures(on_cpu),
                "gpu": figures(on_gpu),
            }
            result |= {"ran on": type(device.index).__name__, "same": round(float(same), 4)}
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()

"""A million experiences of 512 dimensions: seconds to open, memory, disk; run in processes of its own.

python benchmarks/buffer_million.py --records 1000000 --folder DIR        (fills DIR once, then opens it)
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from buffer_plug import load
from buffer_rebuild import clusters

from components.ttrl.buffer import BufferConfig, ExperienceBuffer


def rss_gib(kind="VmRSS"):
    """Resident memory of this process; anonymous part without the mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 2**20


def fill(folder, records, config):
    with ExperienceBuffer.open(folder, config) as buffer:
        start = time.perf_counter()
        for at in range(0, records, 100_000):
            load(buffer, clusters(min(100_000, records - at), config.dimension, seed=at), first=at)
            print(
                f"{len(buffer)} records, {len(buffer) / (time.perf_counter() - start):.0f}/s, {rss_gib():.2f} GiB",
                flush=True,
            )
        buffer.snapshot()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--open", action="store_true", help="only open, search, and report")
    parser.add_argument("--index", action="store_true", help="build the index first")
    options = parser.parse_args()
    config = BufferConfig(dimension=512, background=False, capacity_records=10_000_000)
    if options.open:
        start = time.perf_counter()
        buffer = ExperienceBuffer.open(options.folder, config)
        opened = time.perf_counter() - start
        print(
            f"{len(buffer)} records opened in {opened:.2f} s; RssAnon {rss_gib('RssAnon'):.2f} GiB,"
            f" peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB (mapped files included)"
        )
        if options.index:
            start = time.perf_counter()
            buffer.rebuild_index()
            child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
            print(f"index built in {time.perf_counter() - start:.0f} s, builder's peak {child:.2f} GiB")
            print(buffer.stats()["index"])
            print(f"RssAnon with the index {rss_gib('RssAnon'):.2f} GiB")
        taken = []
        for query in clusters(50, 512, seed=7):
            start = time.perf_counter()
            buffer.search_knn(query, 10)
            taken.append(time.perf_counter() - start)
        start = time.perf_counter()
        buffer.sample(256)
        print(
            f"k-NN p50 {np.median(taken) * 1e3:.2f} ms; first batch of 256 {1e3 * (time.perf_counter() - start):.0f} ms"
        )
        print({k: v for k, v in buffer.stats().items() if k in ("live_bytes", "disk_bytes", "segments")})
        buffer.close()
        return
    if not options.folder.exists():
        fill(options.folder, options.records, config)
    command = [sys.executable, __file__, "--folder", str(options.folder), "--open"]
    subprocess.run(command + (["--index"] if options.index else []), check=True)


if __name__ == "__main__":
    main()

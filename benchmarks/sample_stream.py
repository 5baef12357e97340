"""Reading clips for training: our stream beside webdataset and plain sequential reading, in one run.

    python benchmarks/sample_stream.py [--samples 2000] [--rounds 5] [--batch 32] [--resume 0.9]

Shards as the clip step writes them (16 JPEGs and JSON a sample, 0.4 MB) on the temporary directory, in the page cache.
Every contestant hands out all samples' bytes once, shuffled (sequential reading is the limit and does not shuffle). The
last rows are the time to the first batch after a break at `--resume` of an epoch: webdataset has to read and drop what
came before, with the same seed, because its shuffle buffer is not in any state.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def write(root: Path, samples: int) -> list[str]:
    from components.shared.samples.index import ShardIndex, write_index
    from components.shared.samples.shards import ShardWriter

    rng = np.random.default_rng(0)
    pool = [rng.bytes(int(rng.integers(18_000, 32_000))) for _ in range(64)]
    with ShardWriter(root, "train", max_bytes=100_000_000) as writer:
        for number in range(samples):
            members = {"json": b'{"number": %d}' % number}
            members |= {f"{k:02d}.jpg": pool[(number * 16 + k) % 64] for k in range(16)}
            writer.write(f"s{number:06d}", members)
        records = writer.close()
    write_index(root, ShardIndex(kind="clips", provenance="synthetic", shards={"train": records}))
    return [str(root / record.name) for record in records]


def nothing(key: str, members: dict[str, bytes]) -> int:
    return sum(map(len, members.values()))


def main() -> None:
    import webdataset

    from components.shared.samples import SampleStream
    from components.shared.samples.reading import read_samples

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--resume", type=float, default=0.9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        shards = write(root, options.samples)
        size = sum(Path(shard).stat().st_size for shard in shards)
        stop = int(options.samples * options.resume)

        def stream(first: int, count: int) -> int:
            batches = SampleStream(root, "train", nothing, batch=options.batch, seed=0).batches(first)
            return sum(map(sum, itertools.islice(batches, count)))

        def peer(count: int) -> int:
            data = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0).shuffle(1000)
            return sum(nothing("", {k: v for k, v in s.items() if k[0] != "_"}) for s in itertools.islice(data, count))

        whole: dict[str, Callable[[], int]] = {
            "ours": lambda: stream(0, options.samples // options.batch),
            "webdataset, shuffle(1000)": lambda: peer(options.samples),
            "sequential": lambda: sum(nothing(*s) for shard in shards for s in read_samples(Path(shard))),
        }
        resumed: dict[str, Callable[[], int]] = {
            "ours, resumed": lambda: stream(stop // options.batch, 1),
            "webdataset, replayed": lambda: peer(stop + options.batch),
        }
        times: dict[str, list[float]] = {key: [] for key in (*whole, *resumed)}
        for _ in range(options.rounds):
            for key, run in {**whole, **resumed}.items():
                begun = time.perf_counter()
                run()
                times[key].append(time.perf_counter() - begun)
        print(f"{options.samples} samples, {size / 1e6:.0f} MB in {len(shards)} shards")
        for key in whole:
            seconds = statistics.median(times[key])
            print(f"  {key:28s} {options.samples / seconds:8.0f} samples/s  {size / seconds / 1e6:8.0f} MB/s")
        ratio = statistics.median(b / a for a, b in zip(times["ours"], times["webdataset, shuffle(1000)"], strict=True))
        print(f"  ours / webdataset: {ratio:.2f}")
        for key in resumed:
            print(f"  {key:28s} first batch after {statistics.median(times[key]) * 1e3:8.1f} ms")


if __name__ == "__main__":
    main()

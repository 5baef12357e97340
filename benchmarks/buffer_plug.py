"""The experience buffer as a contestant of the peer benchmarks (`$BENCH`, a folder holding bench_append.py and the
rest; PLUG=benchmarks/buffer_plug.py).

    python -W ignore $BENCH/flush_audit.py --plug $PLUG:Sync
    python -W ignore $BENCH/bench_append.py --plug $PLUG:Async --writers 16 --baseline sqlite-full+lock
    python -W ignore $BENCH/bench_append.py --plug $PLUG:Sync --writers 1
    python -W ignore $BENCH/bench_append.py --plug $PLUG:EightFrames --traj 196000 --writers 16
    python -W ignore $BENCH/bench_append.py --plug $PLUG:Sync --recover 100000
    python -W ignore $BENCH/bench_knn.py --plug $PLUG:Flat --n 10000 --only faiss-flat,pixelis-flat
    python -W ignore $BENCH/bench_knn.py --n 100000 --plug $PLUG:Hnsw --plug $PLUG:Indexed \\
        --plug $PLUG:Ivf --plug $PLUG:MrlSq8
    python -W ignore $BENCH/bench_sample.py --plug $PLUG:Sampler --n 1000000

What a contestant of bench_append is given is an embedding and a trajectory that msgpack has packed already; ours builds
an `Experience` around them (the packed trajectory as one attribute), validates, encodes and indexes it: each append is
searchable when it returns, which the peers' are not.
"""

import contextlib
import struct
import tempfile
from pathlib import Path

import numpy as np

from components.ttrl.buffer import BufferConfig, Experience, ExperienceBuffer, IndexConfig


def identity(number):
    """The id of the benchmark's record `number`."""
    return f"00000000-0000-0000-0000-{number:012x}"


class Sync:
    """Threads, or one writer."""

    name = "pixelis-buffer"
    durable = True
    adapter = "file"

    def __init__(self, directory, dimension):
        self.config = BufferConfig(dimension=dimension, adapter=self.adapter, capacity_records=10_000_000)
        self.buffer = ExperienceBuffer.open(Path(directory) / "buffer", self.config)

    def append(self, number, embedding, payload):
        self.buffer.append(
            Experience(
                id=identity(number), question="what is shown?", visual=embedding, attributes={"payload": payload}
            )
        )

    def bulk(self, items):
        """Through the ordinary append, from coroutines."""
        import asyncio

        async def load():
            waiting = []
            for number, embedding, payload in items:
                experience = Experience(
                    id=identity(number), question="what is shown?", visual=embedding, attributes={"payload": payload}
                )
                waiting.append(asyncio.ensure_future(self.buffer.append_async(experience)))
                if len(waiting) == 512:
                    await asyncio.gather(*waiting)
                    waiting.clear()
            await asyncio.gather(*waiting)

        asyncio.run(load())

    def close(self):
        self.buffer.close()

    @staticmethod
    def recover(directory, dimension):
        buffer = ExperienceBuffer.open(Path(directory) / "buffer", BufferConfig(dimension=dimension, background=False))
        rows, blocks = buffer._state.rows, buffer._state.vectors.blocks
        total, left = 0.0, rows.used
        for block in blocks:
            total += float(block[: max(0, left), 0].sum())
            left -= len(block)
        count = len(buffer)
        buffer.close()
        return count, total


class Async(Sync):
    """Coroutines."""

    name = "pixelis-buffer-async"

    async def append_async(self, number, embedding, payload):
        await self.buffer.append_async(
            Experience(
                id=identity(number), question="what is shown?", visual=embedding, attributes={"payload": payload}
            )
        )


class Lmdb(Sync):
    """The other adapter."""

    name = "pixelis-buffer-lmdb"
    adapter = "lmdb"


class EightFrames(Sync):
    """A record of about 200 KB: the payload (give it with --traj 196000) is stored as eight frames."""

    name = "pixelis-buffer-8-frames"

    def append(self, number, embedding, payload):
        step = -(-len(payload) // 8)
        frames = [struct.pack("<QQ", number, i) + payload[i * step : (i + 1) * step] for i in range(8)]
        self.buffer.append(Experience(id=identity(number), question="what is shown?", visual=embedding), frames)


class _Loaded:
    kind = "flat"

    def __init__(self, vectors):
        self.folder = tempfile.TemporaryDirectory()
        config = BufferConfig(
            dimension=vectors.shape[1], background=False, preallocate=False, segment_bytes=1 << 30,
            index=IndexConfig(kind=self.kind),
        )  # fmt: skip
        self.buffer = ExperienceBuffer.open(Path(self.folder.name) / "b", config)
        load(self.buffer, vectors)
        self.buffer.rebuild_index()

    def search(self, queries, k):
        out = np.full((len(queries), k), -1, np.int64)
        for row, query in enumerate(queries):
            found = self.buffer.search_knn(query, k)
            out[row, : len(found)] = [int(n.id.replace("-", ""), 16) for n in found]
        return out

    def __del__(self):
        with contextlib.suppress(Exception):
            self.buffer.close()
            self.folder.cleanup()


def load(buffer, vectors, first=0):
    """Append all vectors, in batches of coroutines."""
    import asyncio

    async def run():
        for start in range(0, len(vectors), 2048):
            await asyncio.gather(
                *(
                    buffer.append_async(Experience(id=identity(first + start + i), question="", visual=vector))
                    for i, vector in enumerate(vectors[start : start + 2048])
                )
            )

    asyncio.run(run())


class Flat(_Loaded):
    """Exact search."""

    name = "pixelis-flat"


class Hnsw(_Loaded):
    """The graph over all dimensions."""

    name = "pixelis-hnsw"
    kind = "hnsw"


class Ivf(_Loaded):
    """Inverted lists, ten of them read."""

    name = "pixelis-ivf"
    kind = "ivf"


class MrlSq8(_Loaded):
    """The leading dimensions in bytes, its candidates scored again."""

    name = "pixelis-mrl-sq8"
    kind = "mrl_sq8"


class Indexed(_Loaded):
    """What `auto` chooses after its recall check."""

    name = "pixelis-index"
    kind = "auto"


class Sampler:
    """The sampler alone."""

    name = "pixelis-sampler"

    def __init__(self, priorities):
        from components.ttrl.buffer.sampling import ProportionalSampler

        self.sampler = ProportionalSampler(np.asarray(priorities, float))

    def sample(self, batch):
        return self.sampler.draw(batch)

    def update(self, slots, priorities):
        self.sampler.update(slots, priorities)

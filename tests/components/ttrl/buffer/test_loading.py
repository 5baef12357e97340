"""Opening by a snapshot, in pieces and by several threads: the same memory as a replay of the whole log."""

import asyncio
import shutil

import numpy as np
import pytest
from simulated_disk import FastDisk, flip

from components.ttrl.buffer import BufferConfig, Experience, ExperienceBuffer, IndexConfig, checkpoint, pages
from components.ttrl.buffer.log.reader import SegmentScan, frames
from components.ttrl.buffer.vectors import BLOCK_ROWS, VectorBlocks

COUNT = 1500


@pytest.fixture(params=["cosine", "euclidean"])
def config(request, monkeypatch):
    """Pieces of three records, jobs of twelve: every boundary is met many times."""
    monkeypatch.setattr(checkpoint, "CHUNK_ROWS", 3)
    monkeypatch.setattr(checkpoint, "JOB_ROWS", 12)
    monkeypatch.setattr(checkpoint, "THREADS", 4)
    return BufferConfig(dimension=4, segment_bytes=1 << 14, preallocate=False, background=False, min_free_bytes=0,
                        index=IndexConfig(metric=request.param))  # fmt: skip


@pytest.fixture
def root(tmp_path, config):
    """Records with one or both embeddings, shared frames, updates of every kind, removals, a compaction."""
    generator = np.random.default_rng(1)
    with ExperienceBuffer.open(tmp_path / "b", config, disk=FastDisk()) as buffer:
        made = []
        for i in range(COUNT):
            visual, text = generator.standard_normal((2, 4)).astype(np.float32)
            made.append(Experience(question=f"question {i} " * (i % 5), visual=visual if i % 3 else None,
                                   text=text if i % 3 != 1 else None, source=f"source{i % 7}"))  # fmt: skip

        async def load():
            images = [[b"frame %d" % (i % 40) * 9] if i % 4 == 0 else [] for i in range(COUNT)]
            await asyncio.gather(*map(buffer.append_async, made, images))

        asyncio.run(load())
        ids = [e.id for e in made]
        for identity in ids[::9]:
            buffer.remove(identity)
        for identity in ids[1::30]:
            if identity in buffer:
                buffer.update(identity, confidence=0.25, reward=2.0)
        for identity in ids[2::45]:
            if identity in buffer:
                buffer.update(identity, visual=generator.standard_normal(4), label="moved")
        buffer.compact()
    return tmp_path / "b"


def memory(buffer):
    """All of it, by id."""
    state = buffer._state
    rows = state.rows
    return {
        rows.key(slot): (
            state.vectors.read(np.array([slot])).tobytes(), rows.table[slot]["record"].tobytes(),
            int(rows.sequence[slot]), int(rows.address[slot]), int(rows.size[slot]), int(rows.patched[slot]),
            [names.texts[rows.columns[column][slot]] for column, names in sorted(rows.names.items())],
            state.frames.of_slot.get(slot), frozenset(state.shadow.get(rows.key(slot), ())),
        )
        for slot in rows.live()
    }  # fmt: skip


def test_loading_gives_what_a_replay_gives(root, config):
    with ExperienceBuffer.open(root, config, read_only=True) as buffer:
        loaded, counts = memory(buffer), (buffer._state.record_bytes, buffer._state.frames.bytes)
        assert buffer.recovery.snapshot_sequence == buffer._state.sequence
        some = [buffer.get(identity) for identity in buffer.ids()[::50]]
        for e in some:
            nearest = buffer.search_knn(buffer.hybrid(e.visual, e.text), 1)[0]
            assert nearest.id == e.id
    shutil.rmtree(root / "snapshots")
    with ExperienceBuffer.open(root, config, read_only=True) as buffer:
        assert buffer.recovery.snapshot_sequence == 0 and buffer.recovery.entries_replayed > len(loaded)
        assert memory(buffer) == loaded
        assert (buffer._state.record_bytes, buffer._state.frames.bytes) == counts


def test_damaged_records_are_left_out_and_the_others_stay_in_their_rows(root, config):
    with ExperienceBuffer.open(root, config, read_only=True) as buffer:
        loaded = memory(buffer)
    hit = set()
    for path in sorted((root / "log").glob("*.log"))[::3]:
        data = path.read_bytes()
        found = [item for item in frames(memoryview(data), 0, SegmentScan()) if item.kind == 1]
        for item in found[:: max(1, len(found) // 3)]:
            hit.add(bytes(item.body[:16]))
            flip(path, item.address + 40)
    with ExperienceBuffer.open(root, config, read_only=True) as buffer:
        after = memory(buffer)
        assert len(buffer.recovery.damages) >= 3 and buffer.recovery.dropped_bytes > 0
    assert hit & loaded.keys() and not hit & after.keys()
    assert after == {key: value for key, value in loaded.items() if key not in hit}


def test_memory_that_comes_slowly_is_taken_in_small_pages(monkeypatch):
    """Whichever pages are taken, the rows are the same, and more room can be made afterwards."""
    rows = np.random.default_rng(0).standard_normal((BLOCK_ROWS + 100, 80)).astype(np.float32)
    advised = []
    real = pages._advise
    monkeypatch.setattr(pages, "_advise", lambda memory, advice: advised.append(advice) or real(memory, advice))
    results = []
    for limit in (-1.0, 60.0):
        monkeypatch.setattr(pages, "SLOW_S", limit)
        advised.clear()
        blocks = VectorBlocks(80)
        with blocks.filling():
            blocks.reserve(len(rows))
            assert not np.any(blocks.read(np.arange(2 * BLOCK_ROWS)))
            blocks.write(np.arange(len(rows)), rows)
        blocks.reserve(3 * BLOCK_ROWS)
        blocks.write(np.array([2 * BLOCK_ROWS + 5]), rows[:1])
        results.append((list(advised), blocks.read(np.arange(3 * BLOCK_ROWS)).tobytes()))
        assert np.array_equal(blocks.read(np.arange(len(rows))), rows)
    (small, first), (huge, second) = results
    assert first == second
    if huge:  # a platform that knows both
        assert len(huge) == 2 and len(set(huge)) == 1
        assert small == [huge[0], small[1], small[1], huge[0], huge[0]] and small[1] != huge[0]

"""Every acknowledged record is found at once, by every kind of index, and no removed one ever."""

import threading

import faiss
import numpy as np
import pytest
from simulated_disk import FastDisk, flip

from components.ttrl.buffer import (
    BufferConfig,
    Experience,
    ExperienceBuffer,
    IndexConfig,
    InvalidExperienceError,
    Where,
)
from components.ttrl.buffer.index.exact import scan, top
from components.ttrl.buffer.index.file import read
from components.ttrl.buffer.index.kinds import to_gpu
from components.ttrl.buffer.vectors import BLOCK_ROWS, VectorBlocks, hybrid

KINDS = ["flat", "ivf", "hnsw", "sq8", "mrl_sq8", "mrl_hnsw"]


def settings(dimension=32, **index):
    return BufferConfig(
        dimension=dimension, preallocate=False, background=False, min_free_bytes=0,
        index=IndexConfig(**{"matryoshka_width": 16, "nprobe": 8, "flat_limit": 100, **index}),
    )  # fmt: skip


def clusters(count, dimension=32, seed=0):
    """Unit vectors around centres, with most of the energy in the leading dimensions."""
    generator = np.random.default_rng(seed)
    scale = 1.0 / (1 + np.arange(dimension) / 4)
    centres = generator.standard_normal((max(1, count // 20), dimension)) * scale
    vectors = centres[generator.integers(0, len(centres), count)]
    vectors = vectors + 0.5 * generator.standard_normal((count, dimension)) * scale
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def fill(buffer, vectors, **fields):
    experiences = [Experience(question=str(i), visual=v, **fields) for i, v in enumerate(vectors)]
    for experience in experiences:
        buffer.append(experience)
    return experiences


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_find_old_new_and_never_removed(tmp_path, inline_builder, kind, metric):
    vectors = clusters(700)
    with ExperienceBuffer.open(tmp_path / "b", settings(kind=kind, metric=metric), disk=FastDisk()) as buffer:
        stored = fill(buffer, vectors[:600])
        buffer.rebuild_index()
        assert buffer.stats()["index"]["kind"] == kind
        stored += fill(buffer, vectors[600:])  # the tail
        for i in range(0, 700, 7):
            buffer.remove(stored[i].id)
        moved = stored[1]
        buffer.update(moved.id, visual=vectors[0])  # now where a removed one was
        scores = vectors @ vectors.T
        hits = total = 0
        for i in range(1, 700, 5):
            found = [n.id for n in buffer.search_knn(vectors[i], 10)]
            assert len(found) == 10 and len(set(found)) == 10
            assert not {stored[j].id for j in range(0, 700, 7)} & set(found)
            alive = [j for j in np.argsort(-scores[i]) if j % 7 and j != 1][:10]
            hits += len({stored[j].id for j in alive} & set(found))
            total += 10
            if i % 7 and i != 1 and i >= 600:
                assert found[0] == stored[i].id
        assert hits / total >= 0.9
        assert buffer.search_knn(vectors[0], 1)[0].id == moved.id


def test_similarities_are_the_metric(tmp_path):
    a, b = np.array([3.0, 4.0]), np.array([4.0, 3.0])
    for metric, expected in (("cosine", 24 / 25), ("euclidean", -2.0)):
        config = settings(2, kind="flat", metric=metric, matryoshka_width=4)
        with ExperienceBuffer.open(tmp_path / metric, config) as buffer:
            buffer.append(Experience(question="", visual=a))
            assert buffer.search_knn(b, 1)[0].similarity == pytest.approx(expected, rel=1e-6)


def test_hybrid_embedding():
    visual, text = np.array([2.0, 0.0], np.float32), np.array([0.0, 5.0], np.float32)
    both = hybrid(visual, text)
    assert both == pytest.approx(np.array([0.7, 0.3]) / np.hypot(0.7, 0.3), rel=1e-6)
    assert hybrid(visual, None) == pytest.approx([1, 0])
    assert hybrid(None, text) == pytest.approx([0, 1])
    assert hybrid(visual, None, normalise=False) == pytest.approx([2, 0])


def test_a_record_stored_with_both_embeddings_is_found_by_its_hybrid(tmp_path):
    generator = np.random.default_rng(0)
    with ExperienceBuffer.open(tmp_path / "b", settings(), disk=FastDisk()) as buffer:
        records = [Experience(question="", visual=generator.standard_normal(32), text=generator.standard_normal(32))
                   for _ in range(50)]  # fmt: skip
        for record in records:
            buffer.append(record)
        for record in records:
            best = buffer.search_knn(buffer.hybrid(record.visual, record.text), 1)[0]
            assert best.id == record.id and best.similarity == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (Where(sources=["camera"]), {0, 2, 4}),
        (Where(labels=["pick"]), {0, 3}),
        (Where(sources=["camera"], labels=["pick"]), {0}),
        (Where(after_s=103.0), {3, 4, 5}),
        (Where(before_s=102.0), {0, 1}),
        (Where(min_confidence=0.4), {4, 5}),
        (Where(subjects=["nobody"]), set()),
    ],
    ids=["source", "label", "both", "after", "before", "confidence", "unknown"],
)
@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_filters(tmp_path, inline_builder, where, expected, kind):
    vectors = clusters(6)
    with ExperienceBuffer.open(tmp_path / "b", settings(kind=kind)) as buffer:
        ids = []
        for i, vector in enumerate(vectors):
            e = Experience(question="", visual=vector, source=["camera", "upload"][i % 2], created_s=100.0 + i,
                           label="pick" if i % 3 == 0 else "place", confidence=i / 10)  # fmt: skip
            buffer.append(e)
            ids.append(e.id)
        buffer.rebuild_index()
        assert {ids.index(n.id) for n in buffer.search_knn(vectors[0], 10, where)} == expected


def test_auto_uses_leading_dimensions_only_where_they_suffice(tmp_path, inline_builder):
    """Without Matryoshka structure the recall check refuses the short index."""
    generator = np.random.default_rng(0)
    flat_spectrum = generator.standard_normal((1500, 64)).astype(np.float32)
    for name, vectors, kinds in (("mrl", clusters(1500, 64), {"mrl_hnsw"}), ("flat", flat_spectrum, {"hnsw", "flat"})):
        config = settings(64, kind="auto", matryoshka_width=32, min_recall=0.95, recall_queries=50)
        with ExperienceBuffer.open(tmp_path / name, config, disk=FastDisk()) as buffer:
            fill(buffer, vectors)
            buffer.rebuild_index()
            stats = buffer.stats()["index"]
            assert stats["kind"] in kinds
            assert stats["recall"] >= 0.95


def test_index_survives_a_restart_and_a_damaged_one_is_rebuilt(tmp_path, inline_builder):
    vectors = clusters(500)
    config = settings(kind="hnsw")
    with ExperienceBuffer.open(tmp_path / "b", config, disk=FastDisk()) as buffer:
        stored = fill(buffer, vectors)
        buffer.rebuild_index()
    with ExperienceBuffer.open(tmp_path / "b", config) as buffer:
        assert buffer.stats()["index"]["indexed"] == 500
        assert buffer.search_knn(vectors[3], 1)[0].id == stored[3].id
    path = tmp_path / "b" / "index" / "current.index"
    size = path.stat().st_size
    for offset in (0, 9, 40, size // 2, size - 1):
        flip(path, offset)
        with ExperienceBuffer.open(tmp_path / "b", config) as buffer:
            assert buffer.stats()["index"]["indexed"] == 0
            assert buffer.search_knn(vectors[3], 1)[0].id == stored[3].id
        flip(path, offset)
    assert read(path).recall > 0.9


def test_index_holds_no_vectors_of_a_graph(tmp_path, inline_builder):
    """The records have them already: disk stays near the payload."""
    vectors = clusters(400, 256)
    with ExperienceBuffer.open(tmp_path / "b", settings(256, kind="hnsw"), disk=FastDisk()) as buffer:
        fill(buffer, vectors)
        buffer.rebuild_index()
        assert (tmp_path / "b" / "index" / "current.index").stat().st_size < 400 * 256 * 4 / 2


def test_searches_go_on_while_the_index_is_rebuilt_and_records_come_and_go(tmp_path):
    vectors = clusters(3000)
    with ExperienceBuffer.open(tmp_path / "b", settings(kind="hnsw"), disk=FastDisk()) as buffer:
        stored = fill(buffer, vectors[:1500])
        buffer.rebuild_index()
        rebuilding = threading.Thread(target=buffer.rebuild_index)
        rebuilding.start()
        removed = set()
        for i in range(1500, 3000):
            stored += fill(buffer, vectors[i : i + 1])
            assert buffer.search_knn(vectors[i], 1)[0].id == stored[i].id
            if i % 3 == 0:
                buffer.remove(stored[i - 1000].id)
                removed.add(stored[i - 1000].id)
                assert not removed & {n.id for n in buffer.search_knn(vectors[i - 1000], 5)}
        rebuilding.join()
        assert buffer.stats()["index"]["rebuilds"] >= 1


def test_background_rebuild_starts_by_itself(tmp_path):
    import time

    vectors = clusters(400)
    config = settings(kind="hnsw", rebuild_tail=50).model_copy(update={"background": True})
    with ExperienceBuffer.open(tmp_path / "b", config, disk=FastDisk()) as buffer:
        fill(buffer, vectors)
        deadline = time.monotonic() + 60
        while not buffer.stats()["index"]["indexed"] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert buffer.stats()["index"]["indexed"] > 0


def test_a_failing_rebuild_leaves_searches_exact(tmp_path, monkeypatch):
    from components.ttrl.buffer import ExperienceBufferError
    from components.ttrl.buffer.index import builder

    vectors = clusters(200)
    monkeypatch.setattr(builder.sys, "executable", "/bin/false")
    with ExperienceBuffer.open(tmp_path / "b", settings(kind="hnsw"), disk=FastDisk()) as buffer:
        stored = fill(buffer, vectors)
        with pytest.raises(ExperienceBufferError, match="searches stay exact"):
            buffer.rebuild_index()
        assert buffer.search_knn(vectors[5], 1)[0].id == stored[5].id
        assert not list((tmp_path / "b" / "index").iterdir())


@pytest.mark.parametrize("query", [np.ones(5), np.full(32, np.nan), np.full(32, np.inf), "text"])
def test_bad_queries_are_refused(tmp_path, query):
    with ExperienceBuffer.open(tmp_path / "b", settings()) as buffer:
        with pytest.raises(InvalidExperienceError):
            buffer.search_knn(query, 3)
        assert buffer.search_knn(np.ones(32), 3) == []


def test_gpu_falls_back(tmp_path, inline_builder, caplog):

    if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus():
        pytest.skip("this machine has a GPU and a faiss that uses it")
    vectors = clusters(150)
    with ExperienceBuffer.open(tmp_path / "b", settings(kind="flat", gpu=True), disk=FastDisk()) as buffer:
        stored = fill(buffer, vectors)
        buffer.rebuild_index()
        assert "searching on the CPU" in caplog.text
        assert buffer.search_knn(vectors[9], 1)[0].id == stored[9].id
    assert callable(to_gpu)


def test_a_graph_swapped_out_gives_its_memory_back():
    """Its vectors belong to the index: loading it a hundred times must not keep a hundred copies."""
    import gc
    from pathlib import Path

    from components.ttrl.buffer.index.kinds import Spec, build, from_bytes, to_bytes

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    vectors = clusters(2000, 64)
    spec = Spec("hnsw", 64, False)
    data = to_bytes(build(spec, vectors))

    def load():
        found, _ = from_bytes(spec, data, lambda start, stop: vectors[start:stop]).search(vectors[5], 3)
        assert found[0] == 5

    load()
    before = resident()
    for _ in range(100):
        load()
    gc.collect()
    assert resident() - before < 10 * vectors.nbytes


@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("sizes", [[0], [1], [300], [256, 256, 7]], ids=str)
@pytest.mark.parametrize("share", [None, 0.0, 0.02, 0.7])
def test_a_scan_gives_what_sorting_all_rows_gives(sizes, share, euclidean):
    generator = np.random.default_rng(len(sizes))
    blocks = [generator.standard_normal((size, 24)).astype(np.float32) for size in sizes]
    rows = np.concatenate(blocks)
    keep = None if share is None else generator.random(len(rows)) < share
    query = generator.standard_normal(24).astype(np.float32)
    exact = -((rows - query) ** 2).sum(1) if euclidean else rows @ query
    order = np.argsort(-exact)
    order = order if keep is None else order[keep[order]]
    for k in (1, 10, 150, 600):
        found, scores = scan(blocks, query, k, euclidean=euclidean, keep=keep)
        assert len(set(found.tolist())) == len(order[:k]) and set(found.tolist()) <= set(order.tolist())
        assert np.allclose(scores, exact[found], rtol=1e-4, atol=1e-4)
        assert np.allclose(scores, exact[order[:k]], rtol=1e-4, atol=1e-4)  # equal but for rounding


def test_distances_beyond_float32_hide_no_record(tmp_path):
    with ExperienceBuffer.open(tmp_path / "b", settings(metric="euclidean"), disk=FastDisk()) as buffer:
        far = np.full(32, 3e19, np.float32)
        stored = fill(buffer, np.stack([far, -far, np.ones(32, np.float32)]), source="a")
        for where in (None, Where(sources=["a"])):
            assert {n.id for n in buffer.search_knn(np.ones(32), 3, where)} == {e.id for e in stored}
            assert buffer.search_knn(np.ones(32), 3, where)[0].id == stored[2].id


@pytest.mark.parametrize("where", [None, Where(sources=["a"])], ids=["all", "filtered"])
def test_a_scan_is_repeated_only_where_a_slot_it_saw_was_taken_anew(tmp_path, monkeypatch, where):
    vectors = clusters(40)
    with ExperienceBuffer.open(tmp_path / "b", settings(), disk=FastDisk()) as buffer:
        stored = fill(buffer, vectors, source="a")
        calls, steps = [], []

        def watched(*args, **kwargs):
            calls.append(1)
            result = scan(*args, **kwargs)
            if steps:
                steps.pop()()
            return result

        monkeypatch.setattr("components.ttrl.buffer.search.scan", watched)
        steps.append(lambda: buffer.append(Experience(question="new", visual=vectors[0], source="a")))
        assert len(buffer.search_knn(vectors[0], 5, where)) == 5 and len(calls) == 1
        steps.append(lambda: buffer.remove(stored[0].id))
        assert stored[0].id not in {n.id for n in buffer.search_knn(vectors[0], 5, where)} and len(calls) == 3
        steps.append(lambda: buffer.append(Experience(question="in its slot", visual=-vectors[1], source="a")))
        assert buffer.search_knn(vectors[1], 1, where)[0].id == stored[1].id and len(calls) == 5


def test_a_search_leaves_the_callers_number_of_threads_alone(tmp_path):
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        with ExperienceBuffer.open(tmp_path / "b", settings(), disk=FastDisk()) as buffer:
            fill(buffer, clusters(20))
            assert len(buffer.search_knn(clusters(1)[0], 5)) == 5
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)


def test_the_matrix_begins_with_a_cache_line():
    vectors = VectorBlocks(512)
    vectors.reserve(2 * BLOCK_ROWS)
    assert all(block.ctypes.data % 64 == 0 and not block.any() for block in vectors.blocks)


@pytest.mark.parametrize("count", [1, 63, 4095, 4096, 5000, 20_001])
@pytest.mark.parametrize("k", [1, 10, 70])
def test_top_is_what_sorting_gives(count, k):
    generator = np.random.default_rng(count + k)
    for drawn in (generator.standard_normal(count), generator.integers(0, 5, count)):  # with many equal ones too
        scores = np.array(drawn, np.float32)
        if count > 100:
            scores[generator.integers(0, count, count // 3)] = -np.inf
        found = top(scores, k)
        assert len(set(found.tolist())) == min(k, count)
        assert scores[found].tolist() == np.sort(scores)[::-1][:k].tolist()

"""Flat and IVF indexes on a CUDA device. Skipped where faiss has no GPU support or there is no device."""

from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest

from components.ttrl.buffer.index.kinds import Spec, build, from_bytes, to_bytes, to_gpu

pytestmark = pytest.mark.skipif(
    not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() < 1, reason="no faiss on a CUDA device"
)


@pytest.mark.parametrize("euclidean", [False, True])
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_the_device_finds_what_the_processor_finds(kind, euclidean):
    draw = np.random.default_rng(1)
    vectors = draw.standard_normal((5000, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    spec = Spec(kind=kind, dimension=64, euclidean=euclidean)
    on_cpu = build(spec, vectors)
    on_gpu = to_gpu(from_bytes(spec, to_bytes(on_cpu), lambda start, stop: vectors[start:stop]))
    assert "Gpu" in type(on_gpu.index).__name__
    for query in vectors[:50]:
        rows, scores = on_cpu.search(query, 10)
        found, near = on_gpu.search(query, 10)
        assert found[0] == rows[0]
        assert len(set(rows) & set(found)) >= 9, "ties apart, the same neighbours"
        assert np.allclose(np.sort(near)[-5:], np.sort(scores)[-5:], atol=1e-3)


def test_a_graph_stays_on_the_processor():
    vectors = np.random.default_rng(2).standard_normal((500, 16)).astype(np.float32)
    built = build(Spec(kind="hnsw", dimension=16, euclidean=False), vectors)
    assert to_gpu(built) is built


def test_many_threads_search_at_once():
    vectors = np.random.default_rng(3).standard_normal((20_000, 64)).astype(np.float32)
    on_gpu = to_gpu(build(Spec(kind="flat", dimension=64, euclidean=True), vectors))
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda row: int(on_gpu.search(vectors[row], 5)[0][0]), range(2000)))
    assert found == list(range(2000))

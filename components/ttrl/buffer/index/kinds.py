"""The kinds of index, and searching one. Scores are similarities: inner product, or minus the squared distance."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Any

import faiss as _faiss
import numpy as np

from components.ttrl.buffer.index.exact import one_thread

log = logging.getLogger(__name__)
faiss: Any = _faiss  # its stubs lag behind its releases
RERANKED = frozenset({"sq8", "mrl_sq8", "mrl_hnsw"})
"""Kinds whose own scores are approximate: their candidates are scored again with the full vectors."""
GRAPHS = frozenset({"hnsw", "mrl_hnsw"})


@dataclass
class Spec:
    """What to build."""

    kind: str
    dimension: int
    euclidean: bool
    nprobe: int = 10
    neighbours: int = 32
    ef_construction: int = 80
    ef_search: int = 64
    width: int = 128
    rerank: int = 100

    @property
    def searched(self) -> int:
        """Leading dimensions the index sees."""
        return min(self.width, self.dimension) if self.kind.startswith("mrl") else self.dimension


class FaissIndex:
    """A built index over rows 0 .. n - 1.

    Args:
        spec: What it is.
        index: The faiss object.
        storage: Vectors a graph refers to and does not own.
    """

    def __init__(self, spec: Spec, index: Any, storage: Any = None) -> None:
        self.spec, self.index, self._storage = spec, index, storage
        self._parameters = faiss.SearchParametersHNSW(efSearch=spec.ef_search) if spec.kind in GRAPHS else None

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (m,) and scores (m,), best first, m <= k (for re-ranked kinds: candidates and approximate scores)."""
        spec = self.spec
        part = np.ascontiguousarray(query[None, : spec.searched])
        if spec.kind in RERANKED:
            k = max(k, spec.rerank)
        k = min(k, len(self))
        if self._parameters is not None:
            self._parameters.efSearch = max(spec.ef_search, k)
        with one_thread():
            scores, rows = self.index.search(part, k, params=self._parameters)
        found = rows[0] >= 0
        return rows[0][found], (-scores[0] if spec.euclidean else scores[0])[found]


def build(spec: Spec, vectors: np.ndarray) -> FaissIndex:
    """Build an index over (n, dimension) float32 vectors (which may be a memory map)."""
    metric = faiss.METRIC_L2 if spec.euclidean else faiss.METRIC_INNER_PRODUCT
    width = spec.searched
    index: Any
    if spec.kind in GRAPHS:
        index = faiss.IndexHNSWFlat(width, spec.neighbours, metric)
        index.hnsw.efConstruction = spec.ef_construction
    elif spec.kind == "ivf":
        lists = int(min(4096, max(1, min(2 * len(vectors) ** 0.5, len(vectors) / 39))))
        index = faiss.IndexIVFFlat(faiss.IndexFlat(width, metric), width, lists, metric)
        index.cp.niter = 6
        index.nprobe = spec.nprobe
        index.train(_part(vectors, width, np.linspace(0, len(vectors) - 1, min(len(vectors), lists * 40)).astype(int)))
    elif spec.kind in ("sq8", "mrl_sq8"):
        index = faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_8bit, metric)
        index.train(_part(vectors, width, np.linspace(0, len(vectors) - 1, min(len(vectors), 50_000)).astype(int)))
    else:
        index = faiss.IndexFlat(width, metric)
    for start in range(0, len(vectors), 16_384):
        index.add(np.ascontiguousarray(vectors[start : start + 16_384, :width]))
    return FaissIndex(spec, index)


def _part(vectors: np.ndarray, width: int, rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors[np.unique(rows), :width])


def to_bytes(built: FaissIndex) -> np.ndarray:
    """(m,) uint8. A graph is written without its vectors: the records have them."""
    writer = faiss.VectorIOWriter()
    faiss.write_index(built.index, writer, faiss.IO_FLAG_SKIP_STORAGE if built.spec.kind in GRAPHS else 0)
    return faiss.vector_to_array(writer.data)


def from_bytes(spec: Spec, data: np.ndarray, vectors: Any) -> FaissIndex:
    """The index `to_bytes` wrote.

    Args:
        spec: What it is.
        data: (m,) uint8.
        vectors: Called with (start, stop), gives those rows' vectors (stop - start, dimension) for a graph.
    """
    reader = faiss.VectorIOReader()
    faiss.copy_array_to_vector(data, reader.data)
    if spec.kind not in GRAPHS:
        return FaissIndex(spec, faiss.read_index(reader))
    index = faiss.read_index(reader, faiss.IO_FLAG_SKIP_STORAGE)
    storage = faiss.IndexFlat(spec.searched, faiss.METRIC_L2 if spec.euclidean else faiss.METRIC_INNER_PRODUCT)
    for start in range(0, index.ntotal, 16_384):
        rows = vectors(start, min(index.ntotal, start + 16_384))
        storage.add(np.ascontiguousarray(rows[:, : spec.searched]))
    index.storage = storage  # faiss's wrapper gives the ownership away here: the index must take it, or nobody frees it
    index.own_fields = not storage.this.own()
    return FaissIndex(spec, index, storage)


class GpuIndex(FaissIndex):
    """An index on a GPU. Its resources serve one search at a time, so searches of several threads take turns."""

    def __init__(self, spec: Spec, index: Any, resources: Any) -> None:
        super().__init__(spec, index, resources)
        self._turn = threading.Lock()

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        with self._turn:
            return super().search(query, k)


def to_gpu(built: FaissIndex) -> FaissIndex:
    """The index on the first GPU, or unchanged where faiss has none or the kind does not run there."""
    if built.spec.kind not in ("flat", "ivf"):
        return built
    try:
        if faiss.get_num_gpus() < 1:
            raise RuntimeError("faiss sees no GPU")
        resources = faiss.StandardGpuResources()
        return GpuIndex(built.spec, faiss.index_cpu_to_gpu(resources, 0, built.index), resources)
    except (AttributeError, RuntimeError) as error:
        log.warning("index.gpu: %s; searching on the CPU", error)
        return built

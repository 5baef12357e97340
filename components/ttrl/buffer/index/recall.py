"""recall@10 of an index against the exact scan, asked with the records themselves (a record does not find itself)."""

from __future__ import annotations

import faiss
import numpy as np

from components.ttrl.buffer.index.kinds import RERANKED, FaissIndex

K = 10
EXACT_CHUNK = 65_536


def sample_rows(count: int, queries: int, seed: int = 0) -> np.ndarray:
    """(min(count, queries),) different rows."""
    return np.sort(np.random.default_rng(seed).choice(count, min(count, queries), replace=False))


def exact(
    vectors: np.ndarray, rows: np.ndarray, *, euclidean: bool, width: int | None = None, k: int = K
) -> np.ndarray:
    """(len(rows), k) nearest rows of each query row, itself left out, over the first `width` dimensions."""
    queries = np.ascontiguousarray(vectors[rows, :width])
    metric = faiss.METRIC_L2 if euclidean else faiss.METRIC_INNER_PRODUCT
    best_scores: np.ndarray | None = None
    best_rows: np.ndarray | None = None
    for start in range(0, len(vectors), EXACT_CHUNK):
        part = np.ascontiguousarray(vectors[start : start + EXACT_CHUNK, :width])
        scores, found = faiss.knn(queries, part, min(k + 1, len(part)), metric=metric)
        scores, found = (-scores if euclidean else scores), found + start
        if best_scores is not None and best_rows is not None:
            scores, found = np.hstack([best_scores, scores]), np.hstack([best_rows, found])
        order = np.argsort(-scores, axis=1, kind="stable")[:, : k + 1]
        best_scores, best_rows = np.take_along_axis(scores, order, 1), np.take_along_axis(found, order, 1)
    assert best_rows is not None
    return np.array([[r for r in line if r != row][:k] for line, row in zip(best_rows.tolist(), rows.tolist())])


def recall(built: FaissIndex, vectors: np.ndarray, rows: np.ndarray, truth: np.ndarray) -> float:
    """Mean share of the true neighbours (len(rows), k) that the index finds."""
    hits = 0
    for row, true in zip(rows.tolist(), truth):
        query = np.ascontiguousarray(vectors[row])
        found, _ = built.search(query, truth.shape[1] + 1)
        if built.spec.kind in RERANKED:
            found = rerank(vectors[np.sort(found)], np.sort(found), query, built.spec.euclidean)
        hits += len(set(found[found != row][: truth.shape[1]].tolist()) & set(true.tolist()))
    return hits / max(1, truth.size)


def rerank(candidates: np.ndarray, rows: np.ndarray, query: np.ndarray, euclidean: bool) -> np.ndarray:
    """rows (m,) by the full vectors' (m, dim) similarity to the query, best first."""
    if euclidean:
        difference = candidates - query
        scores = -np.einsum("ij,ij->i", difference, difference)
    else:
        scores = candidates @ query
    return rows[np.argsort(-scores, kind="stable")]

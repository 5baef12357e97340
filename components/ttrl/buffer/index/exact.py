"""The exact scan of matrices that lie in memory, by faiss's own kernel: what a flat index does, without its copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import faiss
import numpy as np
from faiss import knn_inner_product, knn_L2sqr, swig_ptr


@contextmanager
def one_thread() -> Iterator[None]:
    """faiss answers the calling thread's single queries in that thread: dividing one costs more than it gains (0.6 ms
    became 1.4 on two idle cores, and 5 where the other is busy)."""
    threads = faiss.omp_get_max_threads()  # the calling thread's own number
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def scan(
    blocks: Sequence[np.ndarray], query: np.ndarray, k: int, *, euclidean: bool, keep: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows most similar to a query.

    Args:
        blocks: (n, dim) float32 matrices, C-contiguous; rows are counted through all of them.
        query: (dim,) float32.
        k: How many.
        euclidean: Minus the squared distance as similarity, else the inner product.
        keep: (all rows,) bool: only these.

    Returns:
        Rows (m,) and similarities (m,), best first; m < k only where there are not k rows.
    """
    parts = []
    start = 0
    with one_thread():
        for block in blocks:
            chosen = keep[start : start + len(block)] if keep is not None else None
            rows, scores = _nearest(block, query, min(k, len(block)), euclidean, chosen)
            parts.append((rows + start if start else rows, scores))
            start += len(block)
    if len(parts) == 1:
        return parts[0]
    rows, scores = (np.concatenate(column) for column in zip(*parts)) if parts else (np.empty(0, int), np.empty(0))
    best = top(scores, k)
    return rows[best], scores[best]


def _nearest(
    block: np.ndarray, query: np.ndarray, k: int, euclidean: bool, keep: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    count = len(block) if keep is None else int(np.count_nonzero(keep))
    k = min(k, count)
    if not k:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    scores, rows = np.empty(k, np.float32), np.empty(k, np.int64)
    where = swig_ptr(query), swig_ptr(block), block.shape[1], 1, len(block), k, swig_ptr(scores), swig_ptr(rows)
    if keep is None or count == len(block):
        (knn_L2sqr if euclidean else knn_inner_product)(*where)
    else:
        bits = np.packbits(keep, bitorder="little")
        selector = faiss.IDSelectorBitmap(len(bits), swig_ptr(bits))
        if euclidean:
            knn_L2sqr(*where, None, selector)
        else:
            knn_inner_product(*where, selector)
    if rows[-1] < 0:  # distances beyond float32: faiss leaves such rows out
        rows = np.arange(len(block)) if keep is None else np.flatnonzero(keep)
        scores = similarities(block[rows], query, euclidean=euclidean)
        best = top(scores, k)
        return rows[best], scores[best]
    return rows, -scores if euclidean else scores


def similarities(matrix: np.ndarray, query: np.ndarray, *, euclidean: bool) -> np.ndarray:
    """(n,) similarity of each row (n, dim) to the query (dim,)."""
    if not euclidean:
        return np.vecdot(matrix, query)
    difference = matrix - query
    with np.errstate(over="ignore"):
        return -np.einsum("ij,ij->i", difference, difference)


def top(scores: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k largest scores, best first; of equal ones the earlier."""
    return (-scores).argsort(kind="stable")[:k]

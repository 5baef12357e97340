"""The building process: `python -m components.ttrl.buffer.index.rebuild ORDER`, where ORDER is a JSON file.

Reads the vectors the owner laid out (i64 sequence numbers, then float32 rows), builds the first kind of the order that
reaches the wanted recall, and writes an index file. Lowest priority, one thread: it must not be felt.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from components.ttrl.buffer.index import recall
from components.ttrl.buffer.index.file import IndexFile
from components.ttrl.buffer.index.kinds import FaissIndex, Spec, build, to_bytes

EF_STEPS = (1, 2, 4)
"""A graph whose recall falls short is searched with a wider beam before it is given up."""


def best(order: dict[str, Any], vectors: np.ndarray) -> tuple[FaissIndex | None, float]:
    """The first kind that reaches the wanted recall, with the recall measured; None where only the exact scan does.

    A kind asked for by name (not `auto`) is taken whatever its recall.
    """
    spec = Spec(**order["spec"])
    rows = recall.sample_rows(len(vectors), order["queries"])
    truth = recall.exact(vectors, rows, euclidean=spec.euclidean)
    forced = order["kind"] != "auto"
    for kind in [order["kind"]] if forced else ["mrl_hnsw", "hnsw"]:
        candidate = replace(spec, kind=kind)
        if not forced and kind.startswith("mrl") and _leading_recall(candidate, vectors, rows, truth) < order["recall"]:
            continue
        built = build(candidate, vectors)
        for step in EF_STEPS:
            wider = FaissIndex(replace(candidate, ef_search=candidate.ef_search * step), built.index)
            reached = recall.recall(wider, vectors, rows, truth)
            if reached >= order["recall"] or (forced and step == EF_STEPS[-1]):
                return wider, reached
    return None, 1.0


def _leading_recall(spec: Spec, vectors: np.ndarray, rows: np.ndarray, truth: np.ndarray) -> float:
    """Share of true neighbours among the `rerank` nearest by the leading dimensions: what re-ranking can reach at
    best."""
    if spec.searched >= spec.dimension:
        return 0.0
    found = recall.exact(vectors, rows, euclidean=spec.euclidean, width=spec.searched, k=spec.rerank)
    hits = sum(len(set(a.tolist()) & set(b.tolist())) for a, b in zip(found, truth))
    return hits / max(1, truth.size)


def follow(path: Path) -> None:
    """Build what an order says."""
    order = json.loads(path.read_text())
    count, dimension = order["count"], order["spec"]["dimension"]
    source = Path(order["vectors"])
    sequences = np.fromfile(source, np.int64, count)
    vectors = np.memmap(source, np.float32, "r", 8 * count, (count, dimension))
    built, reached = best(order, vectors)
    if built is None:
        result = IndexFile(replace(Spec(**order["spec"]), kind="flat"), 1.0, sequences, np.zeros(0, np.uint8))
    else:
        result = IndexFile(built.spec, reached, sequences, to_bytes(built))
    with Path(order["output"]).open("wb") as file:
        for part in result.encode():
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    os.nice(19)
    follow(Path(sys.argv[1]))

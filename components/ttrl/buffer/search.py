"""Nearest neighbours over everything that is live, whatever part of it an index covers."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from components.ttrl.buffer.config import BufferConfig
from components.ttrl.buffer.disk import Disk
from components.ttrl.buffer.identity import id_of
from components.ttrl.buffer.query import Neighbour, Where
from components.ttrl.buffer.state import State
from components.ttrl.buffer.vectors import hybrid


class Search:
    """Exact search."""

    def __init__(
        self, directory: Path, config: BufferConfig, state: State, disk: Disk, mutex: threading.RLock, *, read_only: bool
    ) -> None:
        self.directory, self.config, self.state, self.mutex = directory, config, state, mutex
        self.euclidean = config.index.metric == "euclidean"

    def nearest(self, query: np.ndarray, k: int, where: Where | None) -> list[Neighbour]:
        """The k nearest live records that pass."""
        if not self.euclidean:
            query = hybrid(query, None)
        with self.mutex:
            rows = self.state.rows
            slots = rows.live()
            if where is not None:
                slots = slots[where.mask(rows, slots)]
            if k <= 0 or not len(slots):
                return []
            scores = self.state.vectors.scores(query, rows.used, euclidean=self.euclidean)[slots]
            k = min(k, len(slots))
            best = np.argpartition(-scores, k - 1)[:k]
            best = best[np.argsort(-scores[best], kind="stable")]
            return [self._neighbour(int(slots[i]), float(scores[i])) for i in best]

    def _neighbour(self, slot: int, similarity: float) -> Neighbour:
        rows = self.state.rows
        return Neighbour(
            id_of(rows.key(slot)), int(rows.sequence[slot]), similarity,
            rows.names["label"].texts[rows.label[slot]] or "", rows.names["source"].texts[rows.source[slot]] or "",
            float(rows.confidence[slot]), float(rows.reward[slot]),
        )  # fmt: skip

    def tend(self) -> None:
        """Nothing to tend."""

    def forget(self) -> None:
        """Nothing to forget."""

    def rebuild(self) -> None:
        """Nothing to build."""

    def stats(self) -> dict[str, Any]:
        """Kind of search."""
        return {"kind": "flat"}

    def close(self) -> None:
        """Nothing to close."""

"""Nearest neighbours over everything that is live: an index for most of it, the tail by brute force, or all exactly.

Guarantees: a record is found from the moment it is acknowledged; a removed, evicted or replaced one is never
returned; a rebuild blocks no search (generations are swapped whole).
"""

from __future__ import annotations

import threading

import numpy as np

from components.ttrl.buffer.config import BufferConfig
from components.ttrl.buffer.identity import id_of
from components.ttrl.buffer.index.exact import scan, similarities, top
from components.ttrl.buffer.index.keeper import Keeper
from components.ttrl.buffer.index.kinds import RERANKED
from components.ttrl.buffer.query import Neighbour, Where
from components.ttrl.buffer.state import State

SPARE = 16
"""Candidates asked for beyond k, in case some have just been removed."""
GATHER_LIMIT, GATHER_SHARE = 20_000, 4
"""Where no more records may be returned than these, and than one in so many, just those are read."""


class Search:
    """See the module.

    Args:
        config: The buffer's section.
        state: Memory, guarded by `mutex`.
        index: What is indexed, and what is not yet.
        mutex: The state lock.
    """

    def __init__(self, config: BufferConfig, state: State, index: Keeper, mutex: threading.RLock) -> None:
        self.state, self.index, self.mutex = state, index, mutex
        self.euclidean = config.index.metric == "euclidean"

    def nearest(self, query: np.ndarray, k: int, where: Where | None) -> list[Neighbour]:
        """The k nearest live records that pass, best first."""
        if not self.euclidean:
            query = query / max(float(np.sqrt(np.dot(query, query))), 1e-30)
        k = min(k, len(self.state.slot_of))
        if k <= 0:
            return []
        found = self._indexed(query, k) if where is None else None
        return found if found is not None else self._exact(query, k, where)

    def _exact(self, query: np.ndarray, k: int, where: Where | None = None) -> list[Neighbour]:
        state = self.state
        for _ in range(3):
            with self.mutex:
                version, used, keep = state.version, state.rows.used, self._kept(where)
            slots, scores = self._scan(query, k, used, keep)
            with self.mutex:
                if state.version == version:
                    return self._neighbours(slots, scores)
        with self.mutex:  # writers are faster than the scan: keep them out for one
            return self._neighbours(*self._scan(query, k, state.rows.used, self._kept(where)))

    def _kept(self, where: Where | None) -> np.ndarray | None:
        """(used,) bool: which slots may be returned; None: all."""
        rows = self.state.rows
        if where is None:
            return None if len(rows) == rows.used else rows.alive[: rows.used].copy()
        live = rows.live()
        keep = np.zeros(rows.used, bool)
        keep[live[where.mask(rows, live)]] = True
        return keep

    def _scan(self, query: np.ndarray, k: int, used: int, keep: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        if keep is not None and np.count_nonzero(keep) <= min(GATHER_LIMIT, used // GATHER_SHARE):
            slots = np.flatnonzero(keep)
            scores = similarities(self.state.vectors.read(slots), query, euclidean=self.euclidean)
            best = top(scores, k)
            return slots[best], scores[best]
        return scan(self.state.vectors.filled(used), query, k, euclidean=self.euclidean, keep=keep)

    def _indexed(self, query: np.ndarray, k: int) -> list[Neighbour] | None:
        """None where there is no index, or too many of its answers are stale."""
        with self.mutex:  # generation and tail belong together
            generation, tail = self.index.generation, self.index.tail
            if generation is None:
                return None
            self.index.drain()
            matrix, tail_slots, tail_sequences = tail.matrix[: tail.count], tail.slots, tail.sequences
        places, scores = generation.built.search(query, k + SPARE)
        found, sequences = generation.slots[places], generation.sequences[places]
        if len(matrix):
            near, tail_scores = scan([matrix], query, k + SPARE, euclidean=self.euclidean)
            found = np.concatenate([found, tail_slots[near]])
            sequences = np.concatenate([sequences, tail_sequences[near]])
            scores = np.concatenate([scores, tail_scores])
        with self.mutex:
            rows = self.state.rows
            valid = (rows.columns["sequence"][found] == sequences) & rows.alive[found] & (found >= 0)
            if not valid.all():
                indexed = int(valid[: len(places)].sum())
                if indexed < k and indexed < len(places) and len(generation) > len(places):
                    return None
                if len(matrix) > len(found) - len(places) and int(valid[len(places) :].sum()) < k:
                    return None
                found, scores = found[valid], scores[valid]
            if generation.built.spec.kind in RERANKED:
                scores = similarities(self.state.vectors.read(found), query, euclidean=self.euclidean)
            elif not len(matrix):  # in order already
                return self._neighbours(found[:k], scores[:k])
            best = top(scores, k)
            return self._neighbours(found[best], scores[best])

    def _neighbours(self, slots: np.ndarray, scores: np.ndarray) -> list[Neighbour]:
        rows = self.state.rows
        labels, sources = rows.names["label"].texts, rows.names["source"].texts
        return [
            Neighbour(id_of(key), sequence, score, labels[label] or "", sources[source] or "", confidence, reward)
            for (key, sequence, label, source, confidence, reward), score in zip(rows.shown(slots), scores.tolist())
        ]

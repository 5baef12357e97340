"""Nearest neighbours over everything that is live: an index for most of it, the tail by brute force, or all exactly.

Guarantees: a record is found from the moment it is acknowledged; a removed, evicted or replaced one is never
returned; a rebuild blocks no search (generations are swapped whole).
"""

from __future__ import annotations

import threading

import numpy as np

from components.ttrl.buffer.config import BufferConfig
from components.ttrl.buffer.identity import id_of
from components.ttrl.buffer.index.keeper import Keeper
from components.ttrl.buffer.index.kinds import RERANKED
from components.ttrl.buffer.index.tail import similarities, top
from components.ttrl.buffer.query import Neighbour, Where
from components.ttrl.buffer.state import State

SPARE = 16
"""Candidates asked for beyond k, in case some have just been removed."""
GATHER_LIMIT = 20_000
"""A filter that leaves fewer records is answered by scoring just those."""


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
        if where is not None:
            return self._filtered(query, k, where)
        found = self._indexed(query, k)
        return found if found is not None else self._exact(query, k)

    def _exact(self, query: np.ndarray, k: int) -> list[Neighbour]:
        state = self.state
        for _ in range(3):
            version, used = state.version, state.rows.used
            scores = state.vectors.scores(query, used, euclidean=self.euclidean)
            with self.mutex:
                if state.version == version:
                    return self._best(scores, used, k)
        with self.mutex:  # writers are faster than the scan: keep them out for one
            used = state.rows.used
            return self._best(state.vectors.scores(query, used, euclidean=self.euclidean), used, k)

    def _best(self, scores: np.ndarray, used: int, k: int) -> list[Neighbour]:
        rows = self.state.rows
        if len(rows) < used:
            scores[~rows.alive[:used]] = -np.inf
        slots = top(scores, min(k, len(rows)))
        return self._neighbours(slots, scores[slots])

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
            tail_scores = similarities(matrix, query, euclidean=self.euclidean)
            near = top(tail_scores, k + SPARE)
            found = np.concatenate([found, tail_slots[near]])
            sequences = np.concatenate([sequences, tail_sequences[near]])
            scores = np.concatenate([scores, tail_scores[near]])
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

    def _filtered(self, query: np.ndarray, k: int, where: Where) -> list[Neighbour]:
        state = self.state
        with self.mutex:
            live = state.rows.live()
            slots = live[where.mask(state.rows, live)]
            if len(slots) <= GATHER_LIMIT:
                scores = similarities(state.vectors.read(slots), query, euclidean=self.euclidean)
                best = top(scores, min(k, len(slots)))
                return self._neighbours(slots[best], scores[best])
            scores = state.vectors.scores(query, state.rows.used, euclidean=self.euclidean)[slots]
            best = top(scores, k)
            return self._neighbours(slots[best], scores[best])

    def _neighbours(self, slots: np.ndarray, scores: np.ndarray) -> list[Neighbour]:
        rows = self.state.rows
        labels, sources = rows.names["label"].texts, rows.names["source"].texts
        columns, keys = rows.columns, rows.key_bytes[slots].tobytes()
        return [
            Neighbour(id_of(keys[16 * i : 16 * i + 16]), sequence, score, labels[label] or "", sources[source] or "",
                      confidence, reward)
            for i, (sequence, score, label, source, confidence, reward) in enumerate(zip(
                columns["sequence"][slots].tolist(), scores.tolist(),
                columns["label"][slots].tolist(), columns["source"][slots].tolist(),
                columns["confidence"][slots].tolist(), columns["reward"][slots].tolist(),
            ))
        ]  # fmt: skip

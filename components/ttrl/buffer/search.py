"""Nearest neighbours over everything that is live: an index for most of it, the tail by brute force, or all exactly.

Guarantees: a record is found from the moment it is acknowledged; a removed, evicted or replaced one is never
returned; a rebuild blocks no search (generations are swapped whole).
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from components.ttrl.buffer.config import BufferConfig
from components.ttrl.buffer.disk import Disk
from components.ttrl.buffer.errors import BufferDamagedError
from components.ttrl.buffer.identity import id_of
from components.ttrl.buffer.index import file
from components.ttrl.buffer.index.builder import CURRENT, Builder
from components.ttrl.buffer.index.generation import Generation, load
from components.ttrl.buffer.index.kinds import RERANKED
from components.ttrl.buffer.index.tail import Tail, similarities, top
from components.ttrl.buffer.query import Neighbour, Where
from components.ttrl.buffer.state import State

log = logging.getLogger(__name__)
SPARE = 16
"""Candidates asked for beyond k, in case some have just been removed."""
GATHER_LIMIT = 20_000
"""A filter that leaves fewer records is answered by scoring just those."""
GROWTH = 1.5
"""After no kind reached the wanted recall: growth of the buffer before another try."""


class Search:
    """See the module.

    Args:
        directory: The index folder.
        config: The buffer's section.
        state: Memory, guarded by `mutex`.
        disk: File layer.
        mutex: The state lock.
        read_only: Load an index, never build one.
    """

    def __init__(
        self,
        directory: Path,
        config: BufferConfig,
        state: State,
        disk: Disk,
        mutex: threading.RLock,
        *,
        read_only: bool,
    ) -> None:
        self.directory, self.config, self.state, self.mutex = directory, config, state, mutex
        self.read_only = read_only
        self.euclidean = config.index.metric == "euclidean"
        self.generation: Generation | None = None
        self.tail = Tail(config.dimension, euclidean=self.euclidean)
        self.builder = Builder(directory, config, state, disk)
        self.rebuilds = 0
        self._flat_until = 0  # records up to which the exact scan is known to be the best there is
        self._busy = threading.RLock()
        if not read_only:
            self.builder.abandon(delete=False)
        if (directory / CURRENT).exists():
            self._adopt(directory / CURRENT)

    # --- asking

    def nearest(self, query: np.ndarray, k: int, where: Where | None) -> list[Neighbour]:
        """The k nearest live records that pass, best first."""
        if not self.euclidean:
            query = query / max(float(np.sqrt(np.dot(query, query))), 1e-30)
        k = min(k, len(self.state.rows))
        if k <= 0:
            return []
        if where is not None:
            return self._filtered(query, k, where)
        generation = self.generation
        if generation is not None:
            found = self._indexed(generation, query, k)
            if found is not None:
                return found
        return self._exact(query, k)

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

    def _indexed(self, generation: Generation, query: np.ndarray, k: int) -> list[Neighbour] | None:
        """None where too many of the index's answers are stale."""
        rows, tail = self.state.rows, self.tail
        with self.mutex:
            self._drain()
            matrix, tail_slots, tail_sequences = tail.matrix[: tail.count], tail.slots, tail.sequences
        places, scores = generation.built.search(query, k + SPARE)
        near = np.empty(0, np.int64)
        if len(matrix):
            tail_scores = similarities(matrix, query, euclidean=self.euclidean)
            near = top(tail_scores, k + SPARE)
        with self.mutex:
            slots, sequences = generation.slots[places], generation.sequences[places]
            if len(near):
                slots = np.concatenate([slots, tail_slots[near]])
                sequences = np.concatenate([sequences, tail_sequences[near]])
            valid = rows.sequence[slots] == sequences
            valid &= rows.alive[slots] & (slots >= 0)
            indexed = int(valid[: len(places)].sum())
            if indexed < k and indexed < len(places) and len(generation) > len(places):
                return None
            if len(matrix) > len(near) and int(valid[len(places) :].sum()) < k:
                return None
            slots = slots[valid]
            if generation.built.spec.kind in RERANKED:
                ranked = similarities(self.state.vectors.read(slots), query, euclidean=self.euclidean)
            else:
                ranked = (np.concatenate([scores, tail_scores[near]]) if len(near) else scores)[valid]
            best = top(ranked, k)
            return self._neighbours(slots[best], ranked[best])

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
        columns = rows.columns
        return [
            Neighbour(id_of(key), sequence, score, labels[label] or "", sources[source] or "", confidence, reward)
            for key, sequence, score, label, source, confidence, reward in zip(
                map(rows.key, slots), columns["sequence"][slots].tolist(), scores.tolist(),
                columns["label"][slots].tolist(), columns["source"][slots].tolist(),
                columns["confidence"][slots].tolist(), columns["reward"][slots].tolist(),
            )
        ]  # fmt: skip

    def _drain(self) -> None:
        """Move what was stored since the last search into the tail."""
        fresh = self.state.fresh
        if not fresh:
            return
        slots = np.unique(np.array(fresh))
        fresh.clear()
        slots = slots[self.state.rows.alive[slots]]
        self.tail.add(slots, self.state.rows.sequence[slots], self.state.vectors.read(slots))

    # --- keeping the index current

    def tend(self) -> None:
        """Take over a finished rebuild; start one where it is due."""
        with self._busy:
            if self.builder.finished():
                self._adopt(self.builder.take())
                self.rebuilds += 1
            if self.builder.process is None and time.monotonic() >= self.builder.retry_at and self._due():
                self._start()

    def rebuild(self) -> None:
        """Build now, and wait for it."""
        with self._busy:
            if not self._wanted(len(self.state.rows)):
                return
            if self.builder.process is None:
                self._start()
            assert self.builder.process is not None
            self.builder.process.wait()
            self.tend()

    def _wanted(self, records: int) -> bool:
        index = self.config.index
        if index.kind == "auto":
            return records > max(index.flat_limit, self._flat_until)
        return records > 0 and (index.kind != "flat" or index.gpu)

    def _due(self) -> bool:
        with self.mutex:
            records = len(self.state.rows)
            if self.generation is None:
                self.state.fresh.clear()  # the exact scan needs no tail
            else:
                self._drain()
        if not self._wanted(records) or self.read_only:
            return False
        if self.generation is None:
            return True
        index, size = self.config.index, len(self.generation)
        gone = size + self.tail.count - records
        return max(self.tail.count, gone) >= max(index.rebuild_tail, index.rebuild_share * size)

    def _start(self) -> None:
        with self.mutex:
            slots = self.state.rows.live()
            sequences = self.state.rows.sequence[slots]
        self.builder.start(slots, sequences)

    def _adopt(self, path: Path) -> None:
        """Swap in the index of a file; without the right one, searches are exact."""
        try:
            content = file.read(path)
        except BufferDamagedError as error:
            log.warning("%s", error)
            self.generation = None
            return
        index = self.config.index
        if content.spec.kind == "flat" and not index.gpu:
            self._flat_until = int(GROWTH * len(content.sequences))
            self.generation = None
            return
        if content.spec.dimension != self.config.dimension or content.spec.euclidean != self.euclidean:
            return
        generation = load(content, self.state, self.mutex, gpu=index.gpu)
        with self.mutex:
            self.state.fresh.clear()
            live = self.state.rows.live()
            missing = np.zeros(self.state.rows.used, bool)
            missing[live] = True
            covered = generation.slots[generation.slots >= 0]
            missing[covered] = False
            slots = np.flatnonzero(missing)
            tail = Tail(self.config.dimension, euclidean=self.euclidean)
            # what replaced a covered record while the index was loaded
            changed = covered[self.state.rows.sequence[covered] != generation.sequences[generation.slots >= 0]]
            slots = np.concatenate([slots, changed[self.state.rows.alive[changed]]])
            tail.add(slots, self.state.rows.sequence[slots], self.state.vectors.read(slots))
            self.generation, self.tail = generation, tail

    def forget(self) -> None:
        """Delete the index and whatever is being built: it holds vectors of erased records."""
        with self._busy:
            self.builder.abandon(delete=True)
            with self.mutex:
                self.generation = None
                self.tail = Tail(self.config.dimension, euclidean=self.euclidean)

    def stats(self) -> dict[str, Any]:
        """Kind, records covered, lag, recall."""
        generation = self.generation
        with self.mutex:
            lag = self.tail.count + len(self.state.fresh) if generation is not None else 0
        return {
            "kind": generation.built.spec.kind if generation is not None else "flat",
            "indexed": len(generation) if generation is not None else 0,
            "lag": lag, "recall": generation.recall if generation is not None else 1.0,
            "building": self.builder.process is not None, "rebuilds": self.rebuilds,
        }  # fmt: skip

    def close(self) -> None:
        """End a running rebuild."""
        if not self.read_only:
            with self._busy:
                self.builder.abandon(delete=False)

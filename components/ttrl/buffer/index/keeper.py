"""Keeping the index current: what is fresh goes into the tail, and past a bound a process builds the next generation.

Guarantees: a rebuild blocks no search (generations are swapped whole); without a usable index searches are exact.
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
from components.ttrl.buffer.index import file
from components.ttrl.buffer.index.builder import CURRENT, Builder
from components.ttrl.buffer.index.generation import Generation, load
from components.ttrl.buffer.index.tail import Tail
from components.ttrl.buffer.state import State

log = logging.getLogger(__name__)
GROWTH = 1.5
"""After no kind reached the wanted recall: growth of the buffer before another try."""


class Keeper:
    """The present generation, the tail behind it, and the builder of the next.

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

    def drain(self) -> None:
        """Move what was stored since the last search into the tail."""
        fresh = self.state.fresh
        if not fresh:
            return
        slots = np.unique(np.array(fresh))
        fresh.clear()
        slots = slots[self.state.rows.alive[slots]]
        self.tail.add(slots, self.state.rows.sequence[slots], self.state.vectors.read(slots))

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
                self.drain()
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

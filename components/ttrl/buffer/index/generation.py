"""One index in memory: the faiss object and which record (slot and sequence number) each of its rows was."""

from __future__ import annotations

import threading

import numpy as np

from components.ttrl.buffer.index.file import IndexFile
from components.ttrl.buffer.index.kinds import FaissIndex, from_bytes, to_gpu
from components.ttrl.buffer.state import State


class Generation:
    """Immutable: swapped whole. A row is stale when its slot holds another sequence number by now.

    Args:
        built: The index.
        slots: (n,) slot of each row, -1 where the record is gone.
        sequences: (n,) sequence number of each row.
        recall: Measured when built.
    """

    def __init__(self, built: FaissIndex, slots: np.ndarray, sequences: np.ndarray, recall: float) -> None:
        self.built, self.slots, self.sequences, self.recall = built, slots, sequences, recall

    def __len__(self) -> int:
        return len(self.slots)


def load(content: IndexFile, state: State, mutex: threading.RLock, *, gpu: bool) -> Generation:
    """Attach an index file to the records it was built from. Holds the state lock only for moments."""
    slots = slots_of(content.sequences, state, mutex)

    def vectors(start: int, stop: int) -> np.ndarray:
        part = slots[start:stop]
        rows = np.zeros((len(part), state.config.dimension), np.float32)
        present = part >= 0
        with mutex:
            rows[present] = state.vectors.read(part[present])
        return rows

    built = from_bytes(content.spec, content.data, vectors)
    return Generation(to_gpu(built) if gpu else built, slots, content.sequences, content.recall)


def slots_of(sequences: np.ndarray, state: State, mutex: threading.RLock) -> np.ndarray:
    """(n,) slots that hold these versions of records now; -1 where none does."""
    with mutex:
        live = state.rows.live()
        present = state.rows.sequence[live]
    order = np.argsort(present)
    place = np.searchsorted(present[order], sequences)
    place = np.minimum(place, max(len(order) - 1, 0))
    if not len(order):
        return np.full(len(sequences), -1, np.int64)
    candidates = order[place]
    return np.where(present[candidates] == sequences, live[candidates], -1)

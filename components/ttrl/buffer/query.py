"""What a search asks and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from components.ttrl.buffer.rows import Names, Rows


@dataclass(frozen=True, kw_only=True)
class Where:
    """A filter; every given condition must hold."""

    sources: Sequence[str] | None = None
    subjects: Sequence[str] | None = None
    labels: Sequence[str] | None = None
    after_s: float | None = None
    """Created at or after (seconds since 1970)."""
    before_s: float | None = None
    """Created before."""
    min_confidence: float | None = None

    def mask(self, rows: Rows, slots: np.ndarray) -> np.ndarray:
        """(n,) bool: which of the slots pass."""
        keep = np.ones(len(slots), bool)
        for column, texts in (("source", self.sources), ("subject", self.subjects), ("label", self.labels)):
            if texts is not None:
                keep &= np.isin(rows.columns[column][slots], _codes(rows.names[column], texts))
        if self.after_s is not None:
            keep &= rows.created[slots] >= self.after_s
        if self.before_s is not None:
            keep &= rows.created[slots] < self.before_s
        if self.min_confidence is not None:
            keep &= rows.confidence[slots] >= self.min_confidence
        return keep


def _codes(names: Names, texts: Sequence[str]) -> list[int]:
    return [code for code in map(names.find, texts) if code >= 0]


class Neighbour(NamedTuple):
    """A record near a query, nearest first. `similarity`: cosine, or minus the squared distance (euclidean)."""

    id: str
    sequence: int
    similarity: float
    label: str
    source: str
    confidence: float
    reward: float

"""Which experiences a batch gets: proportional to priority, within bounds of age, source share and diversity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from components.ttrl.buffer.config import BufferConfig
from components.ttrl.buffer.priority import priorities
from components.ttrl.buffer.query import Where
from components.ttrl.buffer.record import Experience
from components.ttrl.buffer.sampling import ProportionalSampler
from components.ttrl.buffer.state import State

REFRESH_SHARE = 0.01
"""Share of the half-life after which the ages in the priorities are brought up to date (an error of at most 0.7 %)."""


@dataclass(frozen=True)
class Batch:
    """A sample: n experiences, their priorities (n,) and importance weights (n,), of which the largest is 1."""

    experiences: list[Experience] = field(default_factory=list)
    priorities: np.ndarray = field(default_factory=lambda: np.zeros(0))
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0))


class Selection:
    """Draws slots. The caller holds the state lock.

    Args:
        state: Memory.
        config: Bounds and priorities.
        clock: Seconds since 1970.
        seed: Seed of the draws.
    """

    def __init__(self, state: State, config: BufferConfig, clock: Callable[[], float], seed: int) -> None:
        self.state, self.config, self.clock = state, config, clock
        self.sampler = ProportionalSampler(np.zeros(0), seed=seed)
        self._refreshed_s = -np.inf

    def weights(self, slots: np.ndarray) -> np.ndarray:
        """(n,) priorities of slots (n,), now."""
        rows = self.state.rows
        return priorities(
            self.config.priority, self.clock(), created_s=rows.created[slots], confidence=rows.confidence[slots],
            reward=rows.reward[slots], retrieved=rows.retrieved[slots], succeeded=rows.succeeded[slots],
            override=rows.override[slots],
        )  # fmt: skip

    def draw(self, n: int, *, replacement: bool, where: Where | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Up to n slots.

        Returns:
            slots (m,), their priorities (m,), and their probabilities (m,) of being the first drawn.
        """
        self.refresh()
        sampler = self._restricted(where)
        total = sampler.total()
        nothing = np.zeros(0)
        if n <= 0 or total <= 0:
            return nothing.astype(np.int64), nothing, nothing
        if replacement:
            slots = sampler.draw(n)
        elif self.config.source_share >= 1.0 and self.config.min_sample_distance <= 0.0:
            slots = sampler.draw_distinct(n)
        else:
            slots = self._bounded(sampler, n)
        values = sampler.flat()[slots]
        return slots, values, values / total

    def refresh(self) -> None:
        """Bring the weights up to date with memory and the clock."""
        state, now = self.state, self.clock()
        aged = abs(now - self._refreshed_s) > REFRESH_SHARE * self.config.priority.half_life_s
        if aged or state.rows.used > len(self.sampler):
            weights = np.zeros(max(state.rows.used + state.rows.used // 4, 1024))
            live = state.rows.live()
            weights[live] = self.weights(live)
            self.sampler.resize(weights)
            self._refreshed_s = now
        elif state.touched:
            slots = np.unique(np.array(state.touched))
            self.sampler.update(slots, np.where(state.rows.alive[slots], self.weights(slots), 0.0))
        state.touched.clear()

    def _restricted(self, where: Where | None) -> ProportionalSampler:
        """The sampler over what the filter and the age bound let through."""
        oldest = self.config.max_sample_age_s
        if where is None and oldest is None:
            return self.sampler
        rows = self.state.rows
        live = rows.live()
        keep = where.mask(rows, live) if where is not None else np.ones(len(live), bool)
        if oldest is not None:
            keep &= self.clock() - rows.created[live] <= oldest
        weights = np.zeros(max(rows.used, 1))
        weights[live[keep]] = self.sampler.flat()[live[keep]]
        return ProportionalSampler(weights, seed=int(self.sampler.generator.integers(2**31)))

    def _bounded(self, sampler: ProportionalSampler, n: int) -> np.ndarray:
        """Distinct slots, at most `source_share` of n from one source, no two closer than `min_sample_distance`."""
        rows, vectors = self.state.rows, self.state.vectors
        limit = max(1, int(self.config.source_share * n))
        chosen: list[int] = []
        counts: dict[int, int] = {}
        matrix = np.zeros((n, vectors.dimension), np.float32)
        for slot in sampler.draw_distinct(min(len(rows), 8 * n)).tolist():
            source = int(rows.source[slot])
            if counts.get(source, 0) >= limit:
                continue
            row = vectors.read(np.array([slot]))[0]
            row = row / max(float(np.linalg.norm(row)), 1e-12)
            if chosen and 1.0 - float((matrix[: len(chosen)] @ row).max()) < self.config.min_sample_distance:
                continue
            matrix[len(chosen)] = row
            chosen.append(slot)
            counts[source] = counts.get(source, 0) + 1
            if len(chosen) == n:
                break
        return np.array(chosen, np.int64)

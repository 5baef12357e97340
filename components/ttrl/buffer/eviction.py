"""Who leaves when the buffer is over capacity."""

from __future__ import annotations

import numpy as np

from components.ttrl.buffer.config import BufferConfig
from components.ttrl.buffer.state import State

SLACK = 0.01
"""Evictions come in batches of this share of the buffer: choosing costs a pass over all records."""


def choose_victims(
    state: State, config: BufferConfig, weights: np.ndarray, records: int, size_bytes: int, spared: set[bytes]
) -> np.ndarray:
    """Slots to remove.

    Args:
        state: The buffer's memory.
        config: Policy and capacities.
        weights: (live,) priority of each live slot, ascending by slot.
        records: Records over capacity (may be negative).
        size_bytes: Bytes over capacity (may be negative).
        spared: Keys already being removed.
    """
    slots = state.rows.live()
    if spared:
        keep = np.array([state.rows.key(slot) not in spared for slot in slots], bool)
        slots, weights = slots[keep], weights[keep]
    order = slots[np.argsort(_rank(state, config, slots, weights), kind="stable")]
    count = 0
    if records > 0:
        count = min(len(order), records + int(SLACK * config.capacity_records))
    if size_bytes > 0:
        freed = np.cumsum(state.rows.size[order])
        count = max(count, min(len(order), int(np.searchsorted(freed, size_bytes)) + 1))
    return order[:count]


def _rank(state: State, config: BufferConfig, slots: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if config.eviction == "lowest_priority":
        return weights
    if config.eviction == "oldest":
        return state.rows.sequence[slots]
    return reservoir_key(state.rows.key_bytes[slots])


def reservoir_key(keys: np.ndarray) -> np.ndarray:
    """(n,) uniform 64-bit numbers from (n, 16) ids: keeping the largest is a uniform sample of all ids ever seen."""
    halves = keys.view(np.uint64).reshape(-1, 2)
    value = halves[:, 0] ^ (halves[:, 1] * np.uint64(0x9E3779B97F4A7C15))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return value ^ (value >> np.uint64(31))

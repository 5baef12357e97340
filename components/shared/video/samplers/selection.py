"""Smoothing and greedy selection, as pure functions (SYSTEM.md, "Frame samplers")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from components.shared.runtime.errors import InputError

NEW_SHARE = 0.7


@dataclass(frozen=True)
class Selection:
    """Chosen frames of a window."""

    indices: tuple[int, ...]
    """Positions in the window, strictly ascending; the first and the last frame are always among them."""
    gap: int
    """The distance that greedy choice could keep: `min_gap`, or less where that many frames did not fit."""


def smooth(values: np.ndarray) -> np.ndarray:
    """Causal smoothing S(t) = 0.7 H(t) + 0.3 S(t-1), S(0) = H(0); float (frames,)."""
    smoothed = np.empty(len(values))
    state = values[0] if len(values) else 0.0
    for position, value in enumerate(values):
        state = NEW_SHARE * value + (1 - NEW_SHARE) * state
        smoothed[position] = state
    return smoothed


def select_greedily(signal: np.ndarray, num_frames: int, min_gap: int, *, stride: int = 1) -> Selection:
    """Take the anchors, then the strongest frame that keeps its distance, until enough.

    The anchors are frame 0 and the last one. Every further frame is the strongest (the earliest among equals) at least
    `min_gap` from all chosen. Where no candidate is left before `num_frames` are chosen, the distance is lowered by one
    and the choice goes on; where the window has fewer frames than asked for, all of them are returned. With a stride,
    only every stride-th frame (and the anchors) is a candidate, unless that leaves too few.

    Raises:
        InputError: no frames, or fewer than one asked for.
    """
    total = len(signal)
    if total == 0 or num_frames < 1:
        raise InputError(f"{num_frames} frames cannot be chosen from a window of {total}.")
    if num_frames >= total:
        return Selection(tuple(range(total)), 1)
    if num_frames == 1:
        return Selection((0,), min_gap)
    if total // stride < num_frames:
        stride = 1
    chosen = [0, total - 1]
    order = [int(i) for i in np.argsort(-signal, kind="stable") if i % stride == 0]
    gap = min_gap
    while len(chosen) < num_frames and gap >= 1:
        for candidate in order:
            if len(chosen) == num_frames:
                break
            if all(abs(candidate - other) >= gap for other in chosen):
                chosen.append(candidate)
        if len(chosen) < num_frames:
            gap -= 1
    return Selection(tuple(sorted(chosen)), gap)

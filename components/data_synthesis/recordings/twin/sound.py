"""The sound track: each operation's noises over the room's and a neighbour's, so that sound helps but does not decide.

An operation sounds in one of several ways, which others share: tape is pulled when a box is closed, but now and then
also when a label is stuck on. Somebody works at the next bench, at what to a microphone is the same work a little
further away. Sounds vary in pitch, strength and density, overlap, are sometimes missing, and noises that belong to
nothing occur too.
Guarantee: the same generator state gives the same samples. Not guaranteed: realism beyond that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from components.data_synthesis.recordings.twin.script import Step

Events = list[tuple[float, np.ndarray]]
_SILENT = 0.12
"""Share of the operations that make no sound."""
_WAYS: dict[int, tuple[tuple[str, float], ...]] = {
    100: (("rustle", 0.72), ("knock", 0.14), ("scratch", 0.14)),
    200: (("peel", 0.72), ("rustle", 0.18), ("scratch", 0.10)),
    300: (("fold", 0.72), ("rustle", 0.14), ("drop", 0.14)),
    400: (("drop", 0.72), ("rustle", 0.18), ("knock", 0.10)),
    500: (("tape", 0.76), ("fold", 0.24)),
    600: (("print", 0.70), ("peel", 0.18), ("tape", 0.12)),
    700: (("beep", 0.80), ("knock", 0.10), ("print", 0.10)),
    800: (("print", 0.50), ("peel", 0.32), ("tape", 0.18)),
    900: (("set_down", 0.72), ("fold", 0.14), ("drop", 0.14)),
    1000: (("scratch", 0.72), ("rustle", 0.18), ("beep", 0.10)),
}
"""Operation id -> (way of sounding, probability)."""


def sound_track(steps: list[Step], rng: np.random.Generator, *, length_s: float, rate_hz: int) -> np.ndarray:
    """One recording's samples, int16 (samples,)."""
    count = round(length_s * rate_hz)
    hum_hz = float(rng.uniform(45, 130))
    time = np.arange(count, dtype=np.float32) / rate_hz
    track = _coloured(rng, count) * np.float32(rng.uniform(0.015, 0.05))
    track += np.float32(rng.uniform(0.002, 0.012)) * np.sin(2 * np.pi * hum_hz * time).astype(np.float32)
    makers = _Makers(rng, rate_hz)
    for step in steps:
        for at, wave in makers.operation(step.operation, step.end_s - step.start_s):
            _add(track, wave * np.float32(rng.uniform(0.3, 1.0)), round((step.start_s + at) * rate_hz))
    _neighbour(track, makers, length_s)
    for _ in range(int(rng.poisson(length_s / 3))):
        way = makers.ways[str(rng.choice(["rustle", "knock", "beep", "drop"]))]
        _add(track, way.make() * np.float32(rng.uniform(0.2, 0.8)), int(rng.integers(count)))
    return (np.clip(track, -1, 1) * 32767).astype(np.int16)


@dataclass(frozen=True)
class _Way:
    """One way of sounding: what is heard, and when within an operation of some length."""

    make: Callable[[], np.ndarray]
    gap_s: float = 0.0
    """Typical time between repetitions; 0 for once."""
    at: float = 0.5
    """Where in the operation, as a share of its length, where it is heard once."""


class _Makers:
    """The ways of sounding at one bench with one microphone: pitches are this recording's own."""

    def __init__(self, rng: np.random.Generator, rate: int) -> None:
        self.rng = rng
        beep_hz, buzz_hz, box_hz = (float(rng.uniform(*span)) for span in ((1500, 3200), (90, 200), (60, 120)))
        self.ways = {
            "rustle": _Way(lambda: _burst(rng, rate, 0.14, 0.12, low=True), 0.5),
            "peel": _Way(lambda: _burst(rng, rate, 0.25, 0.06), 0.7),
            "fold": _Way(lambda: _thump(rng, rate, box_hz), 0.45),
            "drop": _Way(lambda: _thump(rng, rate, 2.2 * box_hz), 0.8),
            "knock": _Way(lambda: _thump(rng, rate, 3.2 * box_hz), 0.9),
            "set_down": _Way(lambda: _thump(rng, rate, 0.7 * box_hz), at=0.9),
            "tape": _Way(lambda: _burst(rng, rate, 0.9, 0.2), at=0.35),
            "print": _Way(lambda: _buzz(rng, rate, buzz_hz, 0.4), at=0.05),
            "beep": _Way(lambda: _tone(rng, rate, beep_hz, 0.09), 0.9),
            "scratch": _Way(lambda: _burst(rng, rate, 0.07, 0.09), 0.22),
        }

    def operation(self, operation: int, length_s: float) -> Events:
        """When what is heard during an operation; nothing for a pause and for silent ones."""
        rng = self.rng
        if operation not in _WAYS or rng.random() < _SILENT:
            return []
        names, shares = zip(*_WAYS[operation], strict=True)
        way = self.ways[str(rng.choice(names, p=shares))]
        if not way.gap_s:
            return [(length_s * min(way.at * float(rng.uniform(0.6, 1.1)), 1.0), way.make())]
        return _repeat(rng, length_s, way.gap_s, way.make)


def _neighbour(track: np.ndarray, makers: _Makers, length_s: float) -> None:
    """Somebody works at the next bench: other operations at the same time, further away."""
    rng, loudness, at = makers.rng, float(makers.rng.uniform(0.05, 0.3)), 0.0
    rate = len(track) / length_s
    while at < length_s:
        length = float(rng.uniform(0.8, 3.0))
        for offset, wave in makers.operation(int(rng.choice(list(_WAYS))), length):
            _add(track, wave * np.float32(loudness * rng.uniform(0.5, 1.0)), round((at + offset) * rate))
        at += length


def _repeat(rng: np.random.Generator, length: float, gap: float, make: Callable[[], np.ndarray]) -> Events:
    events: Events = []
    gap *= float(rng.uniform(0.6, 1.7))
    at = float(rng.uniform(0, gap))
    while at < length:
        events.append((at, make()))
        at += gap * float(rng.uniform(0.6, 1.5))
    return events


def _add(track: np.ndarray, wave: np.ndarray, first: int) -> None:
    if 0 <= first < len(track):
        part = wave[: len(track) - first]
        track[first : first + len(part)] += part


def _coloured(rng: np.random.Generator, count: int) -> np.ndarray:
    white = rng.standard_normal(count + 8, dtype=np.float32)
    sums = np.cumsum(white, dtype=np.float64)
    return ((sums[8:] - sums[:-8]) / 8).astype(np.float32) + 0.3 * white[8:]


def _fade(count: int, sharp: float) -> np.ndarray:
    return np.exp(-np.linspace(0, sharp, count, dtype=np.float32))


def _burst(rng: np.random.Generator, rate: int, length_s: float, level: float, *, low: bool = False) -> np.ndarray:
    count = max(8, round(length_s * rate * float(rng.uniform(0.7, 1.3))))
    noise = _coloured(rng, count) if low else np.diff(rng.standard_normal(count + 1, dtype=np.float32))
    return noise * np.float32(level) * _fade(count, 2.5)


def _thump(rng: np.random.Generator, rate: int, hz: float) -> np.ndarray:
    count = round(0.18 * rate)
    time = np.arange(count, dtype=np.float32) / rate
    wave = np.sin(2 * np.pi * hz * float(rng.uniform(0.75, 1.3)) * time) + 0.3 * rng.standard_normal(count)
    return (0.35 * wave).astype(np.float32) * _fade(count, 6)


def _tone(rng: np.random.Generator, rate: int, hz: float, length_s: float) -> np.ndarray:
    time = np.arange(round(length_s * rate * float(rng.uniform(0.7, 1.4))), dtype=np.float32) / rate
    hz *= float(rng.uniform(0.97, 1.03))
    return (0.25 * np.sin(2 * np.pi * hz * time)).astype(np.float32)


def _buzz(rng: np.random.Generator, rate: int, hz: float, length_s: float) -> np.ndarray:
    time = np.arange(round(length_s * rate * float(rng.uniform(0.7, 1.6))), dtype=np.float32) / rate
    return (0.15 * np.sign(np.sin(2 * np.pi * hz * float(rng.uniform(0.95, 1.05)) * time))).astype(np.float32)

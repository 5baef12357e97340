"""The sound track: each operation's noises over the room's, so that sound helps but does not decide.

Guarantee: the same generator state gives the same samples. Sounds vary in pitch, strength and density, overlap, are
sometimes missing, and noises that belong to nothing occur too. Not guaranteed: realism beyond that.
"""

from __future__ import annotations

import numpy as np

from components.data_synthesis.recordings.twin.script import Step

Events = list[tuple[float, np.ndarray]]


def sound_track(steps: list[Step], rng: np.random.Generator, *, length_s: float, rate_hz: int) -> np.ndarray:
    """One recording's samples, int16 (samples,)."""
    count = round(length_s * rate_hz)
    hum_hz = float(rng.uniform(45, 130))
    time = np.arange(count, dtype=np.float32) / rate_hz
    track = _coloured(rng, count) * np.float32(rng.uniform(0.015, 0.04))
    track += np.float32(rng.uniform(0.002, 0.012)) * np.sin(2 * np.pi * hum_hz * time).astype(np.float32)
    for step in steps:
        if rng.random() < 0.12:
            continue
        for at, wave in _events(step, rng, rate_hz):
            _add(track, wave * np.float32(rng.uniform(0.35, 1.0)), round((step.start_s + at) * rate_hz))
    for _ in range(int(rng.poisson(length_s / 5))):
        wave = (
            _burst(rng, rate_hz, 0.08, 0.3) if rng.random() < 0.6 else _tone(rng, rate_hz, rng.uniform(300, 2500), 0.12)
        )
        _add(track, wave * np.float32(rng.uniform(0.2, 0.8)), int(rng.integers(count)))
    return (np.clip(track, -1, 1) * 32767).astype(np.int16)


def _events(step: Step, rng: np.random.Generator, rate: int) -> Events:
    length = step.end_s - step.start_s
    match step.operation:
        case 100:
            return _repeat(rng, length, 0.5, lambda: _burst(rng, rate, 0.12, 0.12, low=True))
        case 200:
            return _repeat(rng, length, 0.7, lambda: _burst(rng, rate, 0.25, 0.06))
        case 300:
            return _repeat(rng, length, 0.45, lambda: _thump(rng, rate, 90))
        case 400:
            return _repeat(rng, length, 0.8, lambda: _thump(rng, rate, 200))
        case 500:
            tape = min(length * 0.6, 2.0)
            return [(length * 0.35, _burst(rng, rate, tape, 0.25))]
        case 600:
            return [(0.05, _buzz(rng, rate, 0.35)), (length * 0.8, _thump(rng, rate, 260))]
        case 700:
            return _repeat(rng, length, 0.9, lambda: _tone(rng, rate, rng.uniform(1900, 2900), 0.09))
        case 800:
            return [(0.02, _buzz(rng, rate, 0.6)), (length * 0.7, _burst(rng, rate, 0.3, 0.08))]
        case 900:
            return [(length * 0.9, _thump(rng, rate, 60))]
        case 1000:
            return _repeat(rng, length, 0.22, lambda: _burst(rng, rate, 0.07, 0.09))
    return []


def _repeat(rng: np.random.Generator, length: float, gap: float, make) -> Events:  # type: ignore[no-untyped-def]
    events, at = [], float(rng.uniform(0, gap))
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
    time = np.arange(round(length_s * rate), dtype=np.float32) / rate
    return (0.25 * np.sin(2 * np.pi * hz * time)).astype(np.float32)


def _buzz(rng: np.random.Generator, rate: int, length_s: float) -> np.ndarray:
    time = np.arange(round(length_s * rate), dtype=np.float32) / rate
    return (0.15 * np.sign(np.sin(2 * np.pi * float(rng.uniform(100, 180)) * time))).astype(np.float32)

"""The sound track helps to tell what is done and does not decide it."""

from __future__ import annotations

import itertools

import numpy as np

from components.data_synthesis.recordings.config import TwinSection
from components.data_synthesis.recordings.twin.appearance import draw_look
from components.data_synthesis.recordings.twin.script import write_script
from components.data_synthesis.recordings.twin.sound import sound_track

RATE = 16_000
WINDOW = 512


def mel_like(samples: np.ndarray) -> np.ndarray:
    """Logarithmic band energies, float (frames, bands)."""
    pieces = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[:: WINDOW // 2] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(pieces)) ** 2
    edges = np.unique(np.geomspace(2, 256, 21).astype(int))
    return np.log(np.stack([power[:, a:b].mean(axis=1) for a, b in itertools.pairwise(edges)], axis=1) + 1e-6)


def describe(samples: np.ndarray) -> np.ndarray:
    """What a simple classifier would look at: level, spread, peaks and changes of every band."""
    bands = mel_like(samples)
    change = np.diff(bands, axis=0)
    return np.concatenate([bands.mean(0), bands.std(0), bands.max(0), np.abs(change).mean(0), change.max(0)])


def heard(people: range) -> tuple[np.ndarray, np.ndarray]:
    """(features of every operation's sound, operation ids) of some people, cut where the annotation says."""
    config, features, labels = TwinSection(), [], []
    for person in people:
        look = draw_look(config, np.random.default_rng([0, person]))
        steps = write_script(config, np.random.default_rng([0, person, 100]), length_s=30, pace=look.pace)
        sound = sound_track(steps, np.random.default_rng([0, person, 100, 1]), length_s=30, rate_hz=RATE) / 32768
        for step in steps:
            piece = sound[round(step.start_s * RATE) : round(step.end_s * RATE)]
            if len(piece) > RATE // 4:
                features.append(describe(piece))
                labels.append(step.operation)
    return np.stack(features), np.array(labels)


def test_classifying_sound_is_neither_trivial_nor_hopeless() -> None:
    """Ridge regression on one-hot labels, told where operations begin and end, on people it never heard."""
    known, unknown = heard(range(2000, 2060)), heard(range(9000, 9025))
    middle, spread = known[0].mean(0), known[0].std(0) + 1e-9
    train, test = (np.c_[(x - middle) / spread, np.ones(len(x))] for x in (known[0], unknown[0]))
    names = np.unique(known[1])
    targets = (known[1][:, None] == names).astype(float)
    weights = np.linalg.solve(train.T @ train + 30 * np.eye(train.shape[1]), train.T @ targets)
    guessed = names[(test @ weights).argmax(axis=1)]
    right = float((guessed == unknown[1]).mean())
    majority = max(float((unknown[1] == name).mean()) for name in names)
    assert 2 * majority < right < 0.7


def test_the_same_state_gives_the_same_sound_and_each_recording_another() -> None:
    config = TwinSection()
    steps = write_script(config, np.random.default_rng(0), length_s=6, pace=1.0)

    def track(seed: int) -> np.ndarray:
        return sound_track(steps, np.random.default_rng(seed), length_s=6, rate_hz=RATE)

    assert np.array_equal(track(1), track(1))
    assert len(track(1)) == 6 * RATE
    assert np.abs(track(1).astype(int) - track(2)).mean() > 50

"""Does a sampler find boundaries? Share of chosen frames within half a second of one, against even spacing.

Measured on sliding windows (half a window apart, placed without the annotation, no boost), the interval by bootstrap
over whole recordings, because windows of one recording are not independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from components.data_synthesis.clips.config import ClipsConfig
from components.shared.runtime.config import Section
from components.shared.video.labelling import Timeline
from components.shared.video.samplers import FrameSampler
from components.shared.video.windows import sliding_windows

NEAR_S = 0.5
BOOTSTRAPS = 2000


class SamplerCounts(Section):
    """One sampler on one recording."""

    near: int
    """Chosen frames within half a second of a boundary."""
    chosen: int


def measure_samplers(
    samplers: Mapping[str, FrameSampler],
    raw: Mapping[str, Sequence[float]],
    timeline: Timeline,
    num_frames: int,
    config: ClipsConfig,
) -> dict[str, SamplerCounts]:
    """Let every sampler choose in the same windows of a recording and count frames near boundaries."""
    boundaries = np.asarray(timeline.boundaries()) * config.fps
    counts = dict.fromkeys(samplers, (0, 0))
    for window in sliding_windows(num_frames, config.window_frames, config.window_frames / 2):
        for name, sampler in samplers.items():
            indices = sampler.select(
                raw[name][window.start : window.start + window.length], config.num_frames, fps=config.fps
            ).indices
            positions = np.asarray(indices)[:, None] + window.start
            near = (
                (np.abs(positions - boundaries[None]) <= NEAR_S * config.fps).any(axis=1).sum()
                if len(boundaries)
                else 0
            )
            counts[name] = (counts[name][0] + int(near), counts[name][1] + len(indices))
    return {name: SamplerCounts(near=near, chosen=chosen) for name, (near, chosen) in counts.items()}


def compare_samplers(recordings: Sequence[Mapping[str, SamplerCounts]], seed: int) -> dict[str, dict[str, float]]:
    """Shares and their difference to uniform over recordings, with 95 % intervals.

    Args:
        recordings: Counts by sampler, one mapping a recording; all have `uniform`.
        seed: Of the bootstrap.

    Returns:
        By sampler: share, share_low, share_high, gain, gain_low, gain_high (gain = share - uniform's share).
    """
    if not recordings:
        return {}
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(recordings), (BOOTSTRAPS, len(recordings)))
    shares: dict[str, tuple[float, np.ndarray]] = {}
    for name in recordings[0]:
        near = np.array([counts[name].near for counts in recordings], float)
        chosen = np.array([counts[name].chosen for counts in recordings], float)
        shares[name] = (near.sum() / chosen.sum(), near[draws].sum(axis=1) / chosen[draws].sum(axis=1))
    compared = {}
    even, even_draws = shares["uniform"]
    for name, (share, share_draws) in shares.items():
        low, high = np.percentile(share_draws, [2.5, 97.5])
        gain_low, gain_high = np.percentile(share_draws - even_draws, [2.5, 97.5])
        figures = (share, low, high, share - even, gain_low, gain_high)
        keys = ("share", "share_low", "share_high", "gain", "gain_low", "gain_high")
        compared[name] = {key: round(float(value), 4) for key, value in zip(keys, figures)}
    return compared


def verdict(name: str, figures: Mapping[str, float]) -> str:
    """One word on a sampler against uniform."""
    if name == "uniform":
        return "baseline"
    if figures["gain_low"] > 0:
        return "helps"
    return "hurts" if figures["gain_high"] < 0 else "no difference shown"

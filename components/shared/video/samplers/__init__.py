"""Frame samplers behind one interface; one file each."""

from components.shared.runtime.errors import ConfigError
from components.shared.video.samplers.entropy import EntropySampler
from components.shared.video.samplers.flow import FlowSampler
from components.shared.video.samplers.interface import BoundaryBoost, FrameSampler
from components.shared.video.samplers.motion import MotionSampler
from components.shared.video.samplers.selection import Selection, select_greedily, smooth
from components.shared.video.samplers.uniform import UniformSampler, select_evenly

SAMPLERS: dict[str, type[FrameSampler]] = {
    sampler.name: sampler for sampler in (UniformSampler, EntropySampler, MotionSampler, FlowSampler)
}


def make_sampler(name: str, min_gap: int = 5) -> FrameSampler:
    """A sampler by name.

    Raises:
        ConfigError: no sampler has that name.
    """
    if name not in SAMPLERS:
        raise ConfigError(f"sampler = {name!r}: no such sampler; there are {', '.join(SAMPLERS)}.")
    return SAMPLERS[name](min_gap)


__all__ = [
    "SAMPLERS",
    "BoundaryBoost",
    "FrameSampler",
    "Selection",
    "make_sampler",
    "select_evenly",
    "select_greedily",
    "smooth",
]

"""What a frame sampler is: a signal over a window's frames, and a choice of frames from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.shared.runtime.errors import ConfigError
from components.shared.video.samplers.selection import Selection, select_greedily, smooth

BOOST = 1.5
BOOST_RADIUS_S = 0.5
LONG_INPUT_S = 30.0
LONG_INPUT_FPS = 3.0


@dataclass(frozen=True)
class BoundaryBoost:
    """Multiplies a signal near annotated boundaries: looks at the annotation, so training only.

    Raises:
        ConfigError: for any split but `train`: a test window placed or sampled by its annotation would leak it.
    """

    boundaries: tuple[float, ...]
    """Frame positions of the boundaries in the window."""
    fps: float
    split: str
    factor: float = BOOST

    def __post_init__(self) -> None:
        if self.split != "train":
            raise ConfigError(
                f"boundary_boost on split {self.split!r}: the boost reads the annotation, so it would leak the answer "
                "into the frames; it is for training windows only."
            )

    def apply(self, signal: np.ndarray) -> np.ndarray:
        """The signal (frames,) times `factor` within half a second of a boundary."""
        positions = np.arange(len(signal))
        near = np.zeros(len(signal), bool)
        for boundary in self.boundaries:
            near |= np.abs(positions - boundary) <= BOOST_RADIUS_S * self.fps
        return np.where(near, signal * self.factor, signal)


class FrameSampler(ABC):
    """Chooses frames of a window from a signal that is measured frame by frame.

    `measure` may be called once per frame of a whole recording and shared by overlapping windows; `select` only sees
    the measurements inside its window, so a window alone gives the same frames as within its recording.
    """

    name: str
    looks: bool = True
    """False where no pixel is needed."""
    relative: bool = False
    """True where a frame is measured against the one before: the first measurement of a window is not its own."""

    def __init__(self, min_gap: int = 5) -> None:
        self.min_gap = min_gap

    @abstractmethod
    def measure(self, luma: np.ndarray, previous: np.ndarray | None) -> float:
        """The raw signal of one frame.

        Args:
            luma: uint8 (height, width).
            previous: The frame before, None at the start of a recording.
        """

    def signal(self, raw: Sequence[float] | np.ndarray) -> np.ndarray:
        """The signal that frames are chosen by, from a window's measurements, float (frames,)."""
        values = np.asarray(raw, np.float64)
        if self.relative and len(values) > 1:
            values = np.concatenate([values[1:2], values[1:]])
        return smooth(values)

    def select(
        self,
        raw: Sequence[float] | np.ndarray,
        num_frames: int,
        *,
        fps: float = 25.0,
        boost: BoundaryBoost | None = None,
    ) -> Selection:
        """Choose frames of a window.

        Args:
            raw: Measurements of the window's frames.
            num_frames: Frames to choose.
            fps: Rate of the measurements; inputs longer than 30 s are looked at 3 times a second only.
            boost: Weight near boundaries, in training only.
        """
        signal = self.signal(raw)
        stride = max(1, round(fps / LONG_INPUT_FPS)) if len(signal) > LONG_INPUT_S * fps else 1
        if boost:
            signal = boost.apply(signal)
        return select_greedily(signal, num_frames, self.min_gap, stride=stride)

"""What the service looks at: an upload as windows of frames, made in the sandbox.

Role: between the decoder's arrays (decoding.py) and the engine. A `Window` holds one or more looks: choices of frames
of the same content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.shared.runtime.artifacts import sha256_bytes
from components.ttrl import decoding, sandbox
from components.ttrl.config import TtrlConfig

if TYPE_CHECKING:
    from components.ttrl.model import PromotedModel


@dataclass(frozen=True)
class Media:
    """What is looked at: a video, or images with optional times.

    Attributes:
        start_s: Start of the window in the video; None takes the most recent window.
        times_s: Times of the images; empty spreads them evenly.
        max_duration_s: Longer videos are refused.
    """

    video: Path | None = None
    images: tuple[Path, ...] = ()
    start_s: float | None = None
    times_s: tuple[float, ...] = ()
    max_duration_s: float = 60.0


@dataclass(frozen=True)
class Look:
    """One choice of a window's frames.

    Attributes:
        times_s: (T,) seconds from the window's start.
        view_frames: uint8 (T, S, S, 3).
        jpegs: T JPEGs at source resolution.
    """

    times_s: tuple[float, ...]
    view_frames: np.ndarray = field(repr=False)
    jpegs: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True)
class Window:
    """One window of an upload: the looks share its content."""

    start_s: float
    padded_s: float
    looks: tuple[Look, ...]

    @property
    def key(self) -> str:
        """Digest of the first look's frames: equal uploads give equal keys."""
        return sha256_bytes(self.looks[0].view_frames.tobytes())


def windows_of(
    media: Media, model: PromotedModel, config: TtrlConfig, *, samplings: int, hop_s: float | None
) -> tuple[list[Window], float]:
    """(windows, duration in seconds) of an upload; one window without `hop_s`.

    Raises:
        InputError: not decodable, too large, or out of time.
    """
    timeout_s = config.decode_timeout_s
    request: dict[str, Any] = {
        "window_s": model.window_s,
        "num_frames": model.num_frames,
        "view_size": model.view_size,
        "max_side": config.max_source_side,
        "max_pixels": config.max_pixels,
    }
    if media.video is not None:
        target = decoding.decode_video
        request |= {
            "path": str(media.video),
            "samplings": samplings,
            "sampler": model.sampler,
            "seed": config.seed,
            "max_duration_s": media.max_duration_s,
            "start_s": media.start_s,
            "hop_s": hop_s,
        }
        if hop_s is not None:
            timeout_s *= max(1.0, media.max_duration_s / config.max_duration_s)
    else:
        target = decoding.decode_images
        request |= {"paths": [str(path) for path in media.images], "times_s": list(media.times_s)}
    facts, arrays = sandbox.run(target, request, timeout_s=timeout_s, memory_bytes=config.decode_memory_bytes)
    windows, position = [], 0
    for one in facts["windows"]:
        views = arrays[position]
        jpegs = [array.tobytes() for array in arrays[position + 1 : position + 1 + len(views)]]
        position += 1 + len(views)
        looks = tuple(
            Look(tuple(look["times_s"]), views[look["frames"]], tuple(jpegs[index] for index in look["frames"]))
            for look in one["samplings"]
        )
        windows.append(Window(one["start_s"], one["padded_s"], looks))
    return windows, facts["duration_s"]


def view_of(jpegs: Sequence[bytes], size: int) -> np.ndarray:
    """The policy's frames of stored ones, uint8 (T, size, size, 3)."""
    from components.shared.samples.jpeg import decode_jpeg
    from components.shared.video.letterbox import Letterbox

    frames = [decode_jpeg(jpeg) for jpeg in jpegs]
    return np.stack([Letterbox(frame.shape[1], frame.shape[0], size).apply(frame) for frame in frames])

"""What a media file holds, read without decoding more than its first frame.

The video stream is FFmpeg's best (the largest picture) where there are several. Untrusted media: call this in a child
(`child.py`, or the clip step's workers) where a crash of the decoder must not be ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.runtime.errors import InputError

MAX_PIXELS = 16_000_000
MAX_RATE = 240.0


@dataclass(frozen=True)
class VideoInfo:
    """Facts about a video; width and height as shown (after rotation)."""

    path: Path
    stream: int
    """Index of the video stream used."""
    num_video_streams: int
    width: int
    height: int
    rate: float
    """Average frames a second, as declared."""
    num_frames: int
    """Declared number of frames, 0 where the container does not say."""
    duration_s: float
    """Declared length of the stream (of the file where the stream does not say), 0 where unknown."""
    rotation: int
    """Degrees, counterclockwise, by which a player turns the picture: 0, 90, 180 or 270."""
    has_audio: bool
    counted: bool
    """True where the container carries no presentation times (AVI): frame n is at n / rate."""


def probe(path: Path) -> VideoInfo:
    """Open a media file and decode its first frame.

    Raises:
        InputError: not a media file, no video stream, no frame, or a picture beyond the limits; says which.
    """
    with opened(path) as container:
        return read_facts(container, path)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A media file opened by PyAV, local files only; closed at the end.

    Raises:
        InputError: missing, or FFmpeg cannot read it (also in the body of the `with`).
    """
    import av

    if not path.is_file():
        raise InputError(f"{path.name}: is missing or no file, so it cannot be decoded.")
    try:
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            yield container
    except av.error.FFmpegError as error:
        raise InputError(f"{path.name}: cannot be decoded ({describe(error)}).") from error


def read_facts(container: Any, path: Path) -> VideoInfo:
    """The facts of an open file, which is left after its first frame.

    Raises:
        InputError: no video stream, no frame, or a picture beyond the limits; says which.
    """
    stream = best_video(container)
    if stream is None:
        raise InputError(f"{path.name}: holds no video stream.")
    context = stream.codec_context
    context.thread_count = 1
    if context.width * context.height > MAX_PIXELS:
        raise InputError(f"{path.name}: {context.width}x{context.height} is above {MAX_PIXELS} pixels.")
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    if not 0 < rate <= MAX_RATE:
        raise InputError(f"{path.name}: declares {rate:g} frames a second (0 to {MAX_RATE:g} allowed).")
    frame: Any = next(container.decode(stream), None)
    if frame is None:
        raise InputError(f"{path.name}: declares {stream.frames} frames but holds none that decodes.")
    rotation = int(round(frame.rotation / 90) * 90) % 360
    turned = rotation in (90, 270)
    return VideoInfo(
        path=path,
        stream=stream.index,
        num_video_streams=len(container.streams.video),
        width=frame.height if turned else frame.width,
        height=frame.width if turned else frame.height,
        rate=rate,
        num_frames=stream.frames,
        duration_s=declared_seconds(container, stream),
        rotation=rotation,
        has_audio=bool(container.streams.audio),
        counted="avi" in container.format.name,
    )


def best_video(container: Any) -> Any:
    """The largest video stream, as FFmpeg chooses; None where there is none."""
    return container.streams.best("video")


def declared_seconds(container: Any, stream: Any) -> float:
    """Length that the stream, else the container, declares; 0 where neither does."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6


def describe(error: BaseException) -> str:
    """FFmpeg's reason without the path and number."""
    return (getattr(error, "strerror", None) or str(error))[:160]

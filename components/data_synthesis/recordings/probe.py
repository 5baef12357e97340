"""Looks into a video without decoding all of it: size, rate, length, sound, and whether it is whole.

Guarantee: either a `VideoFacts` or an `UnreadableVideo` with the reason; reads every packet and decodes the key frames.
Not guaranteed: that every picture between key frames decodes; the clips step finds that out and records it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from components.shared.video.probe import describe

_MISSING_SHARE = 0.02
"""A video that lacks more than this share of its declared pictures or length counts as truncated."""


class UnreadableVideo(Exception):
    """A file that cannot be used as a video, with the reason."""


@dataclass(frozen=True)
class VideoFacts:
    """What a container says, checked against its packets; sizes as displayed, times from the first frame."""

    fps: float
    num_frames: int
    width: int
    height: int
    duration_s: float
    has_audio: bool
    start: datetime | None


def probe_video(path: Path) -> VideoFacts:
    """Read a video's facts.

    Raises:
        UnreadableVideo: not a video, no video stream, no frames, undecodable, or truncated.
    """
    import av
    import av.error

    if path.stat().st_size == 0:
        raise UnreadableVideo("the file is empty")
    try:
        with av.open(str(path)) as container:
            return _facts(container)
    except UnreadableVideo:
        raise
    except (av.error.FFmpegError, ValueError, OSError, EOFError) as error:
        raise UnreadableVideo(f"not readable as a video ({describe(error)})") from error


def _facts(container) -> VideoFacts:  # type: ignore[no-untyped-def]
    stream = container.streams.best("video")
    if stream is None:
        raise UnreadableVideo("it has no video stream")
    stream.codec_context.skip_frame = "NONKEY"
    times: list[int] = []
    last_length, width, height, decoded = 0, 0, 0, 0
    for packet in container.demux(stream):
        if packet.pts is not None and packet.size:
            times.append(packet.pts)
            last_length = packet.duration or last_length
        for frame in packet.decode():
            decoded += 1
            if not width:
                turned = int(getattr(frame, "rotation", 0)) % 180 == 90
                width, height = (frame.height, frame.width) if turned else (frame.width, frame.height)
    if not times or not decoded:
        raise UnreadableVideo("it holds no frames that can be decoded")
    if stream.frames and len(times) < stream.frames * (1 - _MISSING_SHARE):
        raise UnreadableVideo(f"it is truncated: {len(times)} of {stream.frames} frames")
    base = float(stream.time_base)
    span_s = (max(times) - min(times)) * base
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    length = last_length * base or (1 / rate if rate else 0.0)
    duration_s = span_s + length
    if stream.duration and duration_s < float(stream.duration * stream.time_base) * (1 - _MISSING_SHARE) - 0.1:
        raise UnreadableVideo(f"it is truncated: {duration_s:.2f} of {float(stream.duration * stream.time_base):.2f} s")
    if duration_s <= 0:
        raise UnreadableVideo("it has no length")
    fps = len(times) / duration_s
    return VideoFacts(
        fps=round(fps, 4),
        num_frames=len(times),
        width=width,
        height=height,
        duration_s=round(duration_s, 4),
        has_audio=bool(container.streams.audio),
        start=_start(container.metadata.get("creation_time")),
    )


def _start(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo is not None and time.year > 1970 else None

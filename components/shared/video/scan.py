"""Sequential decoding with PyAV: every frame of a file with its time.

Guarantees: times start at 0 and ascend strictly; a damaged stream raises instead of giving concealed pictures; memory
is that of the frames the caller keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.shared.runtime.errors import InputError
from components.shared.video.frame import AvFrame
from components.shared.video.probe import VideoInfo, describe, opened, probe


def scan_video(path: Path, info: VideoInfo | None = None) -> Iterator[tuple[float, AvFrame]]:
    """Decode a file from start to end.

    Args:
        path: The file.
        info: Its facts, where already probed.

    Yields:
        (seconds since the first frame, frame); the frame's index counts decoded frames.

    Raises:
        InputError: undecodable, damaged part-way, or times that go backwards; says after how many frames.
    """
    info = info or probe(path)
    with opened(path) as container:
        yield from scan_opened(container, path, info)


def scan_opened(container: Any, path: Path, info: VideoInfo) -> Iterator[tuple[float, AvFrame]]:
    """The same for a file that is open and stands at its start.

    Raises:
        InputError: as `scan_video`.
    """
    import av

    turns = info.rotation // 90
    count, first, last = 0, None, -1.0
    stream: Any = container.streams[info.stream]
    if not stream.codec_context.is_open:
        stream.codec_context.thread_count = 1
    tick_s = float(stream.time_base)
    try:
        frame: Any
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise InputError(f"{path.name}: frame {count} is damaged, what follows cannot be trusted.")
            time_s = count / info.rate if info.counted else frame_time(frame, tick_s, count, path)
            first = time_s if first is None else first
            if time_s - first <= last:
                raise InputError(f"{path.name}: time goes backwards at frame {count}, labels cannot be placed.")
            last = time_s - first
            yield last, AvFrame(count, frame, turns)
            count += 1
    except av.error.FFmpegError as error:
        declared = f" of {info.num_frames} declared" if info.num_frames else ""
        raise InputError(f"{path.name}: damaged after {count} frames{declared} ({describe(error)}).") from error
    if count == 0:
        raise InputError(f"{path.name}: declares {info.num_frames} frames but holds none that decodes.")


def frame_time(frame: Any, tick_s: float, count: int, path: Path) -> float:
    """A frame's presentation time in seconds."""
    if frame.pts is None:
        raise InputError(f"{path.name}: frame {count} carries no time, labels cannot be placed.")
    return frame.pts * tick_s

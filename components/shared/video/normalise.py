"""Normalisation to a constant rate: the grid on which windows, labels and samplers count.

A recording that already has the rate, one video stream and no rotation is decoded by PyAV and used as it is, which
saves a generation of compression and half of the time. Everything else goes through FFmpeg in one pass, as a child
process that writes raw frames to a pipe: resampled by time, turned upright, and never re-encoded.

Grid frame n is at n / fps seconds from the recording's first frame.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components.shared.runtime.errors import InputError
from components.shared.video.ffmpeg import find_ffmpeg, input_arguments, last_line
from components.shared.video.frame import Frame, I420Frame
from components.shared.video.probe import VideoInfo, opened, read_facts
from components.shared.video.scan import scan_opened, scan_video

FPS = 25
TIME_TOLERANCE_FRAMES = 0.25


def is_normal(info: VideoInfo, fps: int = FPS) -> bool:
    """True where the file can be used as it is: its packets (read, not decoded) stand on the grid, upright, alone."""
    if not declares_grid(info, fps):
        return False
    if info.counted:
        return True
    with opened(info.path) as container:
        return stand_on_grid(packet_times(container, info), fps)


def declares_grid(info: VideoInfo, fps: int) -> bool:
    """Whether a file says of itself that it has the rate, one video stream and no rotation."""
    return abs(info.rate - fps) <= 1e-6 and info.num_video_streams == 1 and not info.rotation


def stand_on_grid(times_s: Sequence[float], fps: int) -> bool:
    """Whether ascending times are n / fps from the first one on."""
    return all(abs((time_s - times_s[0]) * fps - n) <= TIME_TOLERANCE_FRAMES for n, time_s in enumerate(times_s))


def packet_times(container: Any, info: VideoInfo) -> list[float]:
    """Presentation times of the packets to come in seconds, ascending; a damaged end is left to the decoder."""
    import av

    times: list[float] = []
    stream = container.streams[info.stream]
    tick_s = float(stream.time_base or 0)
    with contextlib.suppress(av.error.FFmpegError):
        times += [packet.pts * tick_s for packet in container.demux(stream) if packet.pts is not None]
    return sorted(times)


def normalised_frames(path: Path, *, fps: int = FPS, info: VideoInfo | None = None) -> Iterator[Frame]:
    """Every grid frame of a recording, in order.

    Args:
        path: A video file.
        fps: Frames a second of the grid.
        info: The file's facts, where already probed.

    Raises:
        InputError: undecodable, damaged or empty.
    """
    with opened(path) as container:
        info = info or read_facts(container, path)
        times = rewound_times(container, info) if declares_grid(info, fps) else []
        if times and stand_on_grid(times, fps) and rewind(container, info):
            for _, frame in scan_opened(container, path, info):
                yield frame
            return
    if not is_normal(info, fps):
        yield from piped_frames(path, info, fps)
        return
    for _, frame in scan_video(path, info):
        yield frame


def rewound_times(container: Any, info: VideoInfo) -> list[float]:
    """Packet times of an open file from its start; none where it is not certain that going back reached the start.

    Opening a file costs as much as decoding some frames of it (FFmpeg looks into the stream first), so one that can go
    back is opened once. What makes it certain is that as many packets follow as the container declares.
    """
    if info.counted or not info.num_frames or not rewind(container, info):
        return []
    times = packet_times(container, info)
    return times if len(times) == info.num_frames else []


def rewind(container: Any, info: VideoInfo) -> bool:
    """Go back to the start of the video stream; False where the container cannot."""
    import av

    try:
        container.seek(0, stream=container.streams[info.stream])
    except av.error.FFmpegError:
        return False
    return True


def piped_frames(path: Path, info: VideoInfo, fps: int = FPS) -> Iterator[I420Frame]:
    """Every grid frame, resampled by FFmpeg in a child process.

    Raises:
        InputError: FFmpeg reported damage (`-xerror`: no concealed frames) or gave no frame.
    """
    width, height = info.width + info.width % 2, info.height + info.height % 2
    filters = (
        f"setpts=PTS-STARTPTS,fps={fps}:start_time=0:round=near,"
        f"scale={width}:{height}:out_color_matrix=bt601:out_range=tv:flags=bilinear,format=yuv420p"
    )
    command = [
        *(find_ffmpeg(), "-nostdin", "-hide_banner", "-loglevel", "error", "-xerror", "-err_detect", "explode"),
        *input_arguments(path),
        *("-map", f"0:{info.stream}", "-an", "-sn", "-vf", filters, "-fps_mode", "passthrough"),
        *("-f", "rawvideo", "-pix_fmt", "yuv420p", "pipe:1"),
    ]
    size = width * height * 3 // 2
    with tempfile.TemporaryFile() as messages:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=messages, bufsize=size)
        assert child.stdout is not None
        count = 0
        try:
            while len(data := child.stdout.read(size)) == size:
                yield I420Frame(count, data, width, height)
                count += 1
            status = child.wait(timeout=30)
        finally:
            child.stdout.close()
            if child.poll() is None:
                child.kill()
                child.wait()
        messages.seek(0)
        said = messages.read()
    if status != 0:
        raise InputError(f"{path.name}: damaged after {count} frames at {fps} a second ({last_line(said)}).")
    if count == 0:
        raise InputError(f"{path.name}: holds no frame that decodes ({last_line(said)}).")

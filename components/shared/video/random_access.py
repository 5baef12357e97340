"""Random access to chosen frames with decord: a few frames of a long file without decoding all of it.

`scan.py` is the way to see every frame; this one seeks to key frames. Whole recordings at 25 frames a second are
faster sequentially (about 3,500 frames/s at 448x336 on one core), a handful of frames faster here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from components.shared.runtime.errors import InputError
from components.shared.video.probe import VideoInfo, describe, probe


def read_frames(path: Path, times_s: Sequence[float], info: VideoInfo | None = None) -> np.ndarray:
    """The frames on screen at given times.

    Args:
        path: A video file.
        times_s: Seconds since the first frame; each gives the latest frame not after it.
        info: The file's facts, where already probed.

    Returns:
        uint8 RGB (len(times_s), height, width, 3), upright.

    Raises:
        InputError: undecodable, a time outside of the recording, or no frame times in the container.
    """
    import decord

    info = info or probe(path)
    if info.num_video_streams > 1 or info.rotation or info.counted:
        return scan_for_frames(path, times_s, info)
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        stamps = reader.get_frame_timestamp(list(range(len(reader))))
        begins = np.asarray(stamps)[:, 0] - float(stamps[0][0])
        indices = [find_frame(begins, float(stamps[-1][1] - stamps[0][0]), time_s, path) for time_s in times_s]
        return reader.get_batch(indices).asnumpy()
    except (decord.DECORDError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path.name}: decord cannot decode the frames asked for ({describe(error)}).") from error


def find_frame(begins: np.ndarray, end_s: float, time_s: float, path: Path) -> int:
    """Index of the latest frame that begins not after `time_s`."""
    if not 0 <= time_s < end_s + 0.05:
        raise InputError(f"{path.name}: {time_s:.3f} s is outside of its {end_s:.3f} s.")
    return int(np.searchsorted(begins, time_s + 1e-4, side="right") - 1)


def scan_for_frames(path: Path, times_s: Sequence[float], info: VideoInfo) -> np.ndarray:
    """The same by sequential decoding, where decord reads streams, rotation or times otherwise than FFmpeg."""
    from components.shared.video.scan import scan_video

    wanted = sorted(set(times_s))
    found: dict[float, np.ndarray] = {}
    previous = None
    end_s = 0.0
    for time_s, frame in scan_video(path, info):
        while len(found) < len(wanted) and wanted[len(found)] + 1e-4 < time_s and previous is not None:
            found[wanted[len(found)]] = previous.bgr()[..., ::-1]
        previous, end_s = frame, time_s + 1 / info.rate
        if len(found) == len(wanted):
            break
    while previous is not None and len(found) < len(wanted) and 0 <= wanted[len(found)] < end_s + 0.05:
        found[wanted[len(found)]] = previous.bgr()[..., ::-1]
    if len(found) < len(wanted):
        raise InputError(f"{path.name}: {wanted[len(found)]:.3f} s is outside of its {end_s:.3f} s.")
    return np.stack([found[time_s] for time_s in times_s])

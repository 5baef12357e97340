"""Sampling frames of untrusted media in a child process with limits: for a service that must outlive any upload.

`sample_in_child` starts `python -m components.shared.video.child`, which decodes one window, chooses frames and writes
them raw to its standard output. Whatever the file does to the decoder (crash, endless loop, memory) ends that child.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.shared.runtime.config import Section
from components.shared.runtime.errors import InputError, PixelisError


class SampleRequest(Section):
    """What to decode, and the limits it must keep."""

    path: str
    start_s: float = 0.0
    """Start of the window."""
    duration_s: float = 5.0
    num_frames: int = 16
    sampler: str = "uniform"
    min_gap: int = 5
    fps: int = 25
    max_pixels: int = 4_000_000
    """Largest picture, width times height."""
    max_duration_s: float = 7200.0
    """Longest recording, as declared and as decoded."""
    memory_bytes: int = 3 * 2**30
    """Address space of the child."""


@dataclass(frozen=True)
class SampledFrames:
    """A window's chosen frames."""

    frames: np.ndarray
    """uint8 RGB (frames, height, width, 3), upright, at source resolution."""
    times_s: tuple[float, ...]
    """Times in the window."""
    padded_s: float
    """Length of the frozen last frame, where the recording is shorter than the window."""


def sample_in_child(request: SampleRequest, *, timeout_s: float = 30.0) -> SampledFrames:
    """Decode a window of a file nobody vouches for.

    Args:
        request: File, window and limits.
        timeout_s: Wall clock after which the child is killed.

    Raises:
        InputError: the file cannot be used, broke a limit, or killed or outlasted its decoder; says which.
    """
    name = Path(request.path).name
    command = [sys.executable, "-m", "components.shared.video.child", request.model_dump_json()]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, stdin=subprocess.DEVNULL, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"{name}: decoding took more than {timeout_s:g} s and was stopped.") from None
    head, _, body = done.stdout.partition(b"\n")
    if done.returncode != 0 or not head:
        raise InputError(f"{name}: its decoder died (exit status {done.returncode}).")
    answer: dict[str, Any] = json.loads(head)
    if "error" in answer:
        raise InputError(answer["error"])
    frames = np.frombuffer(body, np.uint8).reshape(answer["shape"])
    return SampledFrames(frames, tuple(answer["times_s"]), answer["padded_s"])


def sample_window(request: SampleRequest) -> SampledFrames:
    """Decode and choose in this process; the child's work.

    Raises:
        InputError: undecodable, above a limit, or the window starts after the recording's end.
    """
    from components.shared.video.frame import Frame
    from components.shared.video.normalise import normalised_frames
    from components.shared.video.probe import probe
    from components.shared.video.samplers import make_sampler

    path = Path(request.path)
    info = probe(path)
    if info.width * info.height > request.max_pixels:
        raise InputError(f"{path.name}: {info.width}x{info.height} is above {request.max_pixels} pixels.")
    if info.duration_s > request.max_duration_s:
        raise InputError(f"{path.name}: {info.duration_s:.0f} s is above {request.max_duration_s:.0f} s.")
    first, length = round(request.start_s * request.fps), round(request.duration_s * request.fps)
    sampler = make_sampler(request.sampler, request.min_gap)
    kept: deque[Frame] = deque(maxlen=length)
    raw: deque[float] = deque(maxlen=length)
    previous = None
    for frame in normalised_frames(path, fps=request.fps, info=info):
        if frame.index > request.max_duration_s * request.fps:
            raise InputError(f"{path.name}: is longer than {request.max_duration_s:.0f} s.")
        if first <= frame.index < first + length:
            kept.append(frame)
            luma = frame.luma() if sampler.looks else None
            raw.append(sampler.measure(luma, previous) if luma is not None else 0.0)
            previous = luma
        if frame.index >= first + length - 1:
            break
    if not kept:
        raise InputError(f"{path.name}: ends before the window at {request.start_s:g} s.")
    missing = length - len(kept)
    signal = [*raw, *[raw[-1]] * missing]
    indices = sampler.select(signal, request.num_frames, fps=request.fps).indices
    pictures = np.stack([kept[min(index, len(kept) - 1)].bgr()[..., ::-1] for index in indices])
    times = tuple(round(index / request.fps, 3) for index in indices)
    return SampledFrames(pictures, times, round(missing / request.fps, 3))


def main() -> None:
    """Serve the one request given as argument."""
    from components.shared.video.limits import limit_memory

    request = SampleRequest.model_validate_json(sys.argv[1])
    limit_memory(request.memory_bytes)
    try:
        sampled = sample_window(request)
    except (PixelisError, MemoryError) as error:
        reason = str(error) or f"{Path(request.path).name}: needs more memory than its decoder may use."
        sys.stdout.write(json.dumps({"error": reason}) + "\n")
        return
    head = {"shape": sampled.frames.shape, "times_s": sampled.times_s, "padded_s": sampled.padded_s}
    sys.stdout.buffer.write(json.dumps(head).encode() + b"\n")
    sys.stdout.buffer.write(np.ascontiguousarray(sampled.frames).tobytes())


if __name__ == "__main__":
    main()

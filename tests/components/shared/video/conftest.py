"""Small videos made on the spot, and where the real ones are."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """Writes a video whose frame n is uniformly grey 40 + 2n; options: rate, times (ticks of 1/1000 s), audio."""

    def make(
        name: str = "a.mp4",
        num_frames: int = 50,
        *,
        rate: int = 25,
        size: tuple[int, int] = (64, 48),
        times: list[int] | None = None,
        audio: bool = False,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=rate)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            stream.options = {"preset": "ultrafast", "crf": "10", "bf": "0"}
            if times:
                stream.codec_context.time_base = Fraction(1, 1000)
            sound = container.add_stream("aac", rate=16000, layout="mono") if audio else None
            for number in range(num_frames):
                grey = np.full((size[1], size[0], 3), min(40 + 2 * number, 250), np.uint8)
                frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
                if times:
                    frame.pts, frame.time_base = times[number], Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
            if sound is not None:
                tone = np.sin(np.arange(16000 * num_frames // rate) * 0.3).astype(np.float32)[None] * 0.3
                for start in range(0, tone.shape[1] - 1023, 1024):
                    frame = av.AudioFrame.from_ndarray(
                        np.ascontiguousarray(tone[:, start : start + 1024]), format="fltp", layout="mono"
                    )
                    frame.sample_rate, frame.pts = 16000, start
                    container.mux(sound.encode(frame))
                container.mux(sound.encode(None))
        return path

    return make


@pytest.fixture
def shared_data() -> Path:
    """The real sample data; tests that need it are skipped where it is not there."""
    path = Path(os.environ.get("PIXELIS_SHARED_DATA", "../shared/data"))
    if not path.is_dir():
        pytest.skip(f"no real sample data at {path} (PIXELIS_SHARED_DATA names it)")
    return path

"""Writes one recording's mp4: H.264 pictures and an AAC sound track, byte for byte reproducible.

Guarantees: one encoder thread and bit-exact muxing, so the same pictures and sound give the same bytes; the scene's
start is the container's creation_time. Not guaranteed: the same bytes from another version of FFmpeg's libraries.
"""

from __future__ import annotations

from datetime import datetime
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import cv2
import numpy as np

from components.data_synthesis.recordings.config import TwinSection


class Mp4:
    """An mp4 under way; `picture` takes BGR frames in order, `sound` the whole track.

    Args:
        path: File to write.
        config: Size, rate, quality.
        start: Time of the first frame.
    """

    def __init__(self, path: Path, config: TwinSection, start: datetime) -> None:
        self._container = av.open(
            str(path), "w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"}
        )
        self._container.metadata["creation_time"] = start.isoformat()
        video = self._container.add_stream("libx264", rate=config.fps)
        video.width, video.height, video.pix_fmt = config.width, config.height, "yuv420p"
        video.codec_context.thread_count = 1
        video.options = {
            "preset": config.preset,
            "crf": str(config.crf),
            "g": str(config.fps * 4),
            "flags": "+bitexact",
        }
        self._video, self._config, self._count = video, config, 0
        self._audio = None
        if config.audio:
            self._audio = self._container.add_stream("aac", rate=config.audio_rate_hz)
            self._audio.codec_context.layout = "mono"
            self._audio.codec_context.bit_rate = 32000
            self._audio.options = {"aac_coder": "fast", "flags": "+bitexact"}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            for packet in self._video.encode(None):
                self._container.mux(packet)
        self._container.close()

    def picture(self, bgr: np.ndarray, noise: np.ndarray | None = None) -> None:
        """Encode one frame, uint8 BGR (height, width, 3); `noise` (height, width) uint8 is added to its luma."""
        planes = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420), np.uint8)
        if noise is not None:
            luma = planes[: self._config.height]
            cv2.add(luma, noise, luma)
        frame = av.VideoFrame.from_numpy_buffer(planes, format="yuv420p")
        frame.pts = self._count
        frame.time_base = Fraction(1, self._config.fps)
        self._count += 1
        for packet in self._video.encode(frame):
            self._container.mux(packet)

    def sound(self, samples: np.ndarray) -> None:
        """Encode the sound track, int16 (samples,); before the first picture or between pictures."""
        if self._audio is None:
            return
        rate = self._config.audio_rate_hz
        for first in range(0, len(samples), 1024):
            frame = av.AudioFrame.from_ndarray(samples[None, first : first + 1024], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, first, Fraction(1, rate)
            for packet in self._audio.encode(frame):
                self._container.mux(packet)
        for packet in self._audio.encode(None):
            self._container.mux(packet)

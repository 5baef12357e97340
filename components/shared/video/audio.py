"""Sound: a recording's track as 16 kHz mono, and lossless members for clips."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from components.shared.runtime.errors import InputError
from components.shared.video.probe import describe

SAMPLE_RATE = 16_000


def read_audio(path: Path) -> Iterator[np.ndarray]:
    """Stream a file's first audio track, int16 (samples,) at 16 kHz mono, piece by piece.

    Raises:
        InputError: no audio track, or one that does not decode.
    """
    import av

    try:
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            if not container.streams.audio:
                raise InputError(f"{path.name}: holds no audio track.")
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            for frame in container.decode(container.streams.audio[0]):
                for piece in resampler.resample(frame):
                    yield piece.to_ndarray().reshape(-1)
            for piece in resampler.resample(None):
                yield piece.to_ndarray().reshape(-1)
    except av.error.FFmpegError as error:
        raise InputError(f"{path.name}: its audio track cannot be decoded ({describe(error)}).") from error


class AudioWindows:
    """Windows of a track in ascending order of their ends, holding only what is still needed."""

    def __init__(self, path: Path) -> None:
        self.pieces = read_audio(path)
        self.buffer = np.zeros(0, np.int16)
        self.start = 0  # sample number of buffer[0]
        self.ended = False

    def cut(self, start_s: float, duration_s: float) -> np.ndarray:
        """Samples of a window, int16 (round(duration_s * 16000),); silence past the end of the track."""
        first, count = round(start_s * SAMPLE_RATE), round(duration_s * SAMPLE_RATE)
        gathered = [self.buffer]
        end = self.start + len(self.buffer)
        while end < first + count and not self.ended:
            piece = next(self.pieces, None)
            if piece is None:
                self.ended = True
            else:
                gathered.append(piece)
                end += len(piece)
        self.buffer = np.concatenate(gathered)
        window = self.buffer[max(first - self.start, 0) : max(first - self.start + count, 0)]
        return np.concatenate([window, np.zeros(count - len(window), np.int16)])

    def forget(self, before_s: float) -> None:
        """Let go of what no later window starts before."""
        drop = min(max(round(before_s * SAMPLE_RATE) - self.start, 0), len(self.buffer))
        self.buffer = self.buffer[drop:].copy()
        self.start += drop


def encode_flac(samples: np.ndarray) -> bytes:
    """int16 (samples,) at 16 kHz mono as FLAC bytes, the same for the same samples."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="flac", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono", options={"flags": "+bitexact"})
        stream.codec_context.format = "s16"
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return file.getvalue()

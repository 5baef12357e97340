"""Ours as contestants of the peer benchmarks for video, JPEG and shards (`$BENCH`, a folder holding bench_video.py …).

    python -W ignore $BENCH/bench_video.py --what decode --plug benchmarks/video_plug.py:Decode
    python -W ignore $BENCH/bench_video.py --what entropy --plug benchmarks/video_plug.py:Entropy
    python -W ignore $BENCH/bench_video.py --what e2e --plug benchmarks/video_plug.py:Choose
    python -W ignore $BENCH/bench_shards.py --plug benchmarks/video_plug.py:Shards [--fsync]
    python -W ignore $BENCH/bench_shards.py --what jpeg --plug benchmarks/video_plug.py:Jpeg

`Choose` is the product's path as it is: probe, packet times (is the file normal?), every frame decoded in order, its
entropy, smoothing, greedy choice of eight frames with their distance.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np


class Decode:
    """Every frame's luma through the product's reader."""

    name = "pixelis normalised_frames"

    @staticmethod
    def run(path: str) -> int:
        from components.shared.video.normalise import normalised_frames

        return sum(1 for frame in normalised_frames(Path(path)) if frame.luma() is not None)


class Entropy:
    """The sampler's measure of one frame."""

    name = "pixelis grey_entropy"

    @staticmethod
    def run(image: np.ndarray) -> float:
        from components.shared.video.samplers.entropy import grey_entropy

        return grey_entropy(image)


class Choose:
    """Eight frames of a clip by entropy."""

    name = "pixelis entropy sampler"

    @staticmethod
    def run(path: str) -> list[int]:
        from components.shared.video.normalise import normalised_frames
        from components.shared.video.samplers import make_sampler

        sampler = make_sampler("entropy")
        raw = [sampler.measure(frame.luma(), None) for frame in normalised_frames(Path(path))]
        return list(sampler.select(raw, 8).indices)


class Shards:
    """The product's writer, digests included."""

    name = "pixelis ShardWriter"

    def run(self, directory: str, samples: list[tuple[str, dict[str, object], list[bytes]]]) -> None:
        from components.shared.samples.shards import ShardWriter

        with ShardWriter(Path(directory), "s") as writer:
            for key, meta, jpegs in samples:
                members = {"json": json.dumps(meta).encode()}
                members |= {f"{number}.jpg": data for number, data in enumerate(jpegs)}
                writer.write(key, members)


class Jpeg:
    """The product's encoder of source frames (4:2:0), which takes the order of colours that its decoder gives (BGR)."""

    name = "pixelis encode_bgr"

    def run(self, image: np.ndarray) -> bytes:
        from components.shared.samples.jpeg import encode_bgr

        cv2.setNumThreads(1)
        return encode_bgr(image, quality=85, full_colour=False)

"""Decode, entropy of every frame, choice of eight: ours on all cores beside OpenCV with calcHist, and decoding alone.

    python benchmarks/video_both_cores.py [--clips 12] [--rounds 5] [--cores 2]

Two clips as in the peers' benchmark (640 x 480, 5 s, H.264): A clean, B noisy. Contestants alternate; ratios are
medians of per-round ratios. Ours runs one process a core, as the clip step does; OpenCV with calcHist runs as a script
would (one clip after another, its own decoding threads as it sets them), and also in one process a core.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np


def write_clip(path: Path, noise: int) -> None:
    from components.shared.video.ffmpeg import find_ffmpeg

    source = "testsrc2=size=640x480:rate=25:duration=5" + (f",noise=alls={noise}:allf=t" if noise else "")
    command = [find_ffmpeg(), "-v", "error", "-y", "-f", "lavfi", "-i", source, "-c:v", "libx264", "-preset", "medium"]
    subprocess.run([*command, "-crf", "23", "-pix_fmt", "yuv420p", "-g", "50", "-bf", "2", str(path)], check=True)


def ours(path: str) -> list[int]:
    from video_plug import Choose

    return Choose.run(path)


def decode_only(path: str) -> int:
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        return sum(1 for _ in container.decode(stream))


def opencv(path: str) -> list[int]:
    video, values = cv2.VideoCapture(path), []
    while True:
        ok, frame = video.read()
        if not ok:
            break
        counts = cv2.calcHist([cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)], [0], None, [256], [0, 256]).ravel()
        shares = counts[counts > 0] / counts.sum()
        values.append(float(-(shares * np.log2(shares)).sum()))
    edges = np.linspace(0, len(values), 9).astype(int)
    return [int(a + np.argmax(values[a:b])) for a, b in itertools.pairwise(edges)]


def rate(run: Callable[[], object], clips: int) -> float:
    begun = time.perf_counter()
    run()
    return clips / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(options.cores) as pool:
        for name, noise in (("A", 0), ("B", 12)):
            path = Path(folder) / f"{name}.mp4"
            write_clip(path, noise)
            work = [str(path)] * options.clips
            contestants: dict[str, Callable[[], object]] = {
                "ours, one process a core": lambda work=work: list(pool.map(ours, work)),  # type: ignore[misc]
                "ours, one core": lambda work=work: [ours(item) for item in work],  # type: ignore[misc]
                "decode only, one core": lambda work=work: [decode_only(item) for item in work],  # type: ignore[misc]
                "decode only, one process a core": lambda work=work: list(pool.map(decode_only, work)),  # type: ignore[misc]
                "cv2 + calcHist, as a script": lambda work=work: [opencv(item) for item in work],  # type: ignore[misc]
                "cv2 + calcHist, one process a core": lambda work=work: list(pool.map(opencv, work)),  # type: ignore[misc]
            }
            for run in contestants.values():
                run()
            rounds = [
                {key: rate(run, options.clips) for key, run in contestants.items()} for _ in range(options.rounds)
            ]
            print(f"clip {name}, {path.stat().st_size} bytes")
            for key in contestants:
                print(f"  {key:36s} {statistics.median(row[key] for row in rounds):7.2f} clips/s")
            for above, below in (
                ("ours, one core", "decode only, one core"),
                ("ours, one process a core", "decode only, one process a core"),
                ("ours, one process a core", "cv2 + calcHist, as a script"),
                ("ours, one process a core", "cv2 + calcHist, one process a core"),
            ):
                ratio = statistics.median(row[above] / row[below] for row in rounds)
                print(f"  {above} / {below}: {ratio:.2f}")


if __name__ == "__main__":
    main()

"""A small recordings artifact of real mp4 files, and where the real videos are."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from components.shared.video.probe import probe
from components.shared.work.manifest import Manifest, Recording, Segment, save_manifest

LABELS = ("A", "B", "C")


def write_video(path: Path, num_frames: int, seed: int, *, audio: bool = False) -> None:
    """Noise that drifts: 64 x 48 at 25 a second."""
    rng = np.random.default_rng(seed)
    base = rng.integers(40, 200, (48, 64 + num_frames, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "23"}
        sound = container.add_stream("aac", rate=16000, layout="mono") if audio else None
        for number in range(num_frames):
            picture = np.ascontiguousarray(base[:, number : number + 64])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
        if sound is not None:
            for start in range(0, 16000 * num_frames // 25 - 1023, 1024):
                noise = (rng.random((1, 1024)) - 0.5).astype(np.float32)
                frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 16000, start
                container.mux(sound.encode(frame))
            container.mux(sound.encode(None))


def segments_of(seed: int, duration_s: float) -> tuple[Segment, ...]:
    """Operations of 0.8 to 3.5 s in turn."""
    rng = np.random.default_rng(seed)
    found, at, number = [], 0.0, int(rng.integers(3))
    while at < duration_s:
        end = min(at + float(rng.uniform(0.8, 3.5)), duration_s)
        found.append(Segment(label=LABELS[number % 3], start_s=round(at, 3), end_s=round(end, 3)))
        at, number = end, number + 1
    return tuple(found)


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training people, one for validation, two for test; ten seconds each, one of three."""
    root = tmp_path_factory.mktemp("recordings")
    rows = []
    for number in range(11):
        split = "train" if number < 8 else "validation" if number == 8 else "test"
        num_frames = 75 if number == 1 else 250
        path = root / f"P{number:02d}.mp4"
        write_video(path, num_frames, number, audio=number % 2 == 0)
        rows.append(
            Recording(
                recording_id=f"P{number:02d}.S1", subject=f"P{number:02d}", session="S1", split=split,
                video=path.name, fps=25, num_frames=num_frames, width=64, height=48, duration_s=num_frames / 25,
                has_audio=number % 2 == 0, sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                segments=segments_of(number, num_frames / 25),
            )
        )  # fmt: skip
    save_manifest(
        Manifest(source="twin", provenance="synthetic", split_by="person", labels=LABELS, recordings=tuple(rows)), root
    )
    return root


@pytest.fixture
def shared_data() -> Path:
    """The real sample data; tests that need it are skipped where it is not there."""
    path = Path(os.environ.get("PIXELIS_SHARED_DATA", "../shared/data"))
    if not path.is_dir():
        pytest.skip(f"no real sample data at {path} (PIXELIS_SHARED_DATA names it)")
    return path.absolute()


@pytest.fixture
def urfd(shared_data: Path) -> Callable[[Path], Path]:
    """Writes a recordings artifact that points to the real fall videos, with their own labels."""

    def write(root: Path) -> Path:
        segments: dict[str, list[Segment]] = {}
        with open(shared_data / "urfd/segments.csv") as file:
            for row in csv.DictReader(file):
                item = Segment(label=row["label"], start_s=float(row["start_s"]), end_s=float(row["end_s"]))
                segments.setdefault(row["video"], []).append(item)
        rows = []
        for number, (name, found) in enumerate(sorted(segments.items())):
            path = shared_data / "urfd/videos" / name
            info = probe(path)
            rows.append(
                Recording(
                    recording_id=name, subject=name, session="-", video=str(path), fps=info.rate,
                    split="train" if number % 5 < 3 else "validation" if number % 5 == 3 else "test",
                    num_frames=info.num_frames, width=info.width, height=info.height, duration_s=info.duration_s,
                    sha256="-", segments=tuple(found),
                )
            )  # fmt: skip
        labels = ("not_lying", "transition", "lying")
        save_manifest(
            Manifest(source="segments", provenance="real", split_by="video", labels=labels, recordings=tuple(rows)),
            root,
        )
        return root

    return write

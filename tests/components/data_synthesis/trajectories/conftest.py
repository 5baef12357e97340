"""A small clips artifact with moving hands and striped tags, written with the product's own writers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from components.data_synthesis.trajectories.synthesize import TrajectoriesInputs, TrajectoriesOutputs
from components.shared.samples import Clip, ClipMeta, ShardIndex, ShardWriter, write_clip, write_index
from components.shared.samples.jpeg import encode_jpeg
from components.shared.work.manifest import Manifest, Recording, Segment, save_manifest

WIDTH, HEIGHT, VIEW, NUM_FRAMES = 448, 336, 56, 16
VALUES = ("horizontal", "vertical", "diagonal", "checker")
LABELS = ("Picking", "Scan Label", "Close Box")
TIMES = tuple(round(5 * index / (NUM_FRAMES - 1), 3) for index in range(NUM_FRAMES))


def stripes(value: str) -> np.ndarray:
    """A 32 x 32 tag whose 8 x 8 blocks all have the same mean."""
    y, x = np.mgrid[:32, :32]
    on = {
        "horizontal": y // 4 % 2,
        "vertical": x // 4 % 2,
        "diagonal": (x + y) // 4 % 2,
        "checker": (x // 4 + y // 4) % 2,
    }[value]
    return np.where(on[..., None] == 0, 60, 190).astype(np.uint8).repeat(3, axis=2)


def render(cell: tuple[int, int], value: str | None, move: bool, shade: int) -> list[np.ndarray]:
    """Source frames: a background, a tag in a cell, a hand that moves in the cell (column 2, row 1)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    base = np.stack([90 + x // 8 + shade, 120 + y // 8, 80 + (x + y) // 16], axis=2).clip(0, 255).astype(np.uint8)
    frames = []
    for index in range(NUM_FRAMES):
        frame = base.copy()
        if value is not None:
            left, top = cell[0] * 112 + 40, cell[1] * 84 + 24
            frame[top : top + 32, left : left + 32] = stripes(value)
        if move:
            cv2.circle(frame, (250 + 4 * index, 110 + 2 * index), 14, (230, 190, 160), -1)
        frames.append(frame)
    return frames


def view_of(frame: np.ndarray) -> np.ndarray:
    small = cv2.resize(frame, (56, 42), interpolation=cv2.INTER_AREA)
    return np.pad(small, ((7, 7), (0, 0), (0, 0)))


@dataclass
class World:
    """Paths of the step's inputs."""

    root: Path
    inputs: TrajectoriesInputs

    def outputs(self, name: str) -> TrajectoriesOutputs:
        path = self.root / name
        path.mkdir()
        return TrajectoriesOutputs(path)


def make_world(
    root: Path, *, num_clips: int = 24, tags: bool = True, move: bool = True, two_orders: int = 3, ambiguous: int = 2
) -> World:
    """`num_clips` training clips (four shards), six of every other split."""
    clips, recordings, truth = root / "clips", root / "recordings", root / "truth"
    for path in (clips, recordings, truth):
        path.mkdir(parents=True)
    rng = np.random.default_rng(0)
    shards, found = {}, []
    for split in ("train", "validation", "test", "canary"):
        count = num_clips if split == "train" else 6
        with ShardWriter(clips, split, max_bytes=max(count // 4, 1) * 900_000) as writer:
            for number in range(count):
                name = f"{split}{number:03d}"
                cell, value = (number % 4, number // 4 % 4), VALUES[number % 4]
                frames = render(cell, value if tags else None, move, int(rng.integers(60)))
                label = LABELS[number % 3]
                meta = ClipMeta(
                    clip_id=f"{name}-w0", recording_id=name, subject=name, session="S1", split=split,
                    window="across", start_s=2.0, duration_s=5.0, frame_times_s=TIMES,
                    frame_labels=(label,) * NUM_FRAMES, frame_phases=(0.5,) * NUM_FRAMES, operation=label,
                    segment_s=(0.61, 3.52), next_operation=LABELS[(number + 1) % 3], has_boundary=number % 2 == 0,
                    ambiguous=number < ambiguous, sampler="uniform", provenance="synthetic" if tags else "real",
                )  # fmt: skip
                view = np.concatenate([view_of(frame) for frame in frames])
                source = tuple(encode_jpeg(frame, quality=90) for frame in frames)
                write_clip(writer, Clip(meta, encode_jpeg(view, quality=95), source))
                if tags:
                    scene = scene_truth(name, cell, value, orders=2 if split == "train" and number < two_orders else 1)
                    (truth / f"{name}.json").write_text(json.dumps(scene))
                found.append(recording(name, split, label))
        shards[split] = writer.close()
    provenance = "synthetic" if tags else "real"
    write_index(clips, ShardIndex(kind="clips", provenance=provenance, shards=shards))
    source = "twin" if tags else "segments"
    save_manifest(
        Manifest(source=source, provenance=provenance, split_by="person", labels=LABELS, recordings=tuple(found)),
        recordings,
    )
    return World(root, TrajectoriesInputs(clips, recordings, truth))


def recording(name: str, split: str, label: str) -> Recording:
    return Recording(
        recording_id=name, subject=name, session="S1", video=f"{name}.mp4",
        split=split if split in ("train", "validation") else "test",
        fps=25, num_frames=250, width=WIDTH, height=HEIGHT, duration_s=10, sha256="0" * 64,
        segments=(Segment(label=label, start_s=0, end_s=10),),
    )  # fmt: skip


def scene_truth(name: str, cell: tuple[int, int], value: str, *, orders: int) -> dict[str, object]:
    left, top = cell[0] * 112 + 40, cell[1] * 84 + 24
    tag = {"value": value, "cell": list(cell), "box": [left, top, left + 32, top + 32]}
    ends = [(0.0, 12.0)] if orders == 1 else [(0.0, 4.0), (4.0, 12.0)]
    return {
        "version": 1, "recording_id": name, "width": WIDTH, "height": HEIGHT, "fps": 25, "num_frames": 250,
        "tag_values": list(VALUES),
        "orders": [{"box": k, "start_s": a, "end_s": b, "tag": tag} for k, (a, b) in enumerate(ends)],
        "labels": [], "objects": {"box": {"shape": "rectangle", "boxes": [[10, 10, 60, 60]] * 250}},
    }  # fmt: skip


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The functions above, for tests (test folders are no packages)."""
    return SimpleNamespace(make_world=make_world, render=render, view_of=view_of, stripes=stripes)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))

"""TRACK_OBJECT beside OpenCV's MIL tracker and pyramidal Lucas-Kanade, in one run on the same frames.

    python benchmarks/operations_track.py [--data ../shared/data] [--twin RECORDINGS --truth TRUTH] [--sequences 20]

Sequences: the VOT one (axis-aligned boxes around the polygons); the two objects of the DAVIS frames (the first frame's
boxes from its mask, the other three read off by hand, good to about 3 px, and 8 px where grass hides the wheels); twin
sequences of 75 frames with the scene's truth (rendered here unless given). `never moves` answers with the first box for
ever: what standing still is worth.
Figures: mean overlap over all frames but the first, with the paired difference to the best peer and its 95 % interval
over sequences; frames until loss (first overlap under 0.1); median milliseconds a frame, by the thread's processor time
and by the clock.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

Box = tuple[float, float, float, float]


def overlap(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


class Ours:
    """Pixelis' TRACK_OBJECT."""

    def __init__(self, frame: np.ndarray, box: Box) -> None:
        from components.shared.operations.tracking import CorrelationTracker

        self.tracker = CorrelationTracker(frame, box)

    def update(self, frame: np.ndarray) -> Box:
        return self.tracker.update(frame).box


class Mil:
    """OpenCV's TrackerMIL as it comes."""

    def __init__(self, frame: np.ndarray, box: Box) -> None:
        cv2.setRNGSeed(0)
        self.tracker = cv2.TrackerMIL_create()  # type: ignore[attr-defined]
        x0, y0, x1, y1 = (round(v) for v in box)
        self.tracker.init(np.ascontiguousarray(frame[..., ::-1]), (x0, y0, x1 - x0, y1 - y0))

    def update(self, frame: np.ndarray) -> Box:
        _, (x, y, width, height) = self.tracker.update(np.ascontiguousarray(frame[..., ::-1]))
        return x, y, x + width, y + height


class LucasKanade:
    """Corners in the box followed by pyramidal Lucas-Kanade; the box moves by their median, points renewed when few."""

    def __init__(self, frame: np.ndarray, box: Box) -> None:
        self.grey, self.box = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), box
        self.points = self.corners()

    def corners(self) -> Any:
        mask = np.zeros_like(self.grey)
        x0, y0, x1, y1 = (max(round(v), 0) for v in self.box)
        mask[y0:y1, x0:x1] = 255
        return cv2.goodFeaturesToTrack(self.grey, 60, 0.01, 3, mask=mask)

    def update(self, frame: np.ndarray) -> Box:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        if self.points is not None and len(self.points):
            moved, good, _ = cv2.calcOpticalFlowPyrLK(self.grey, grey, self.points, None)  # type: ignore[call-overload]
            good = good.ravel() == 1
            if good.any():
                dx, dy = np.median((moved - self.points)[good].reshape(-1, 2), axis=0)
                x0, y0, x1, y1 = self.box
                self.box = (x0 + dx, y0 + dy, x1 + dx, y1 + dy)
            self.points = moved[good].reshape(-1, 1, 2)
        self.grey = grey
        if self.points is None or len(self.points) < 8:
            self.points = self.corners()
        return self.box


class Still:
    """The first box for ever: what standing still is worth."""

    def __init__(self, frame: np.ndarray, box: Box) -> None:
        self.box = box

    def update(self, frame: np.ndarray) -> Box:
        return self.box


TRACKERS: dict[str, Callable[[np.ndarray, Box], Any]] = {
    "pixelis": Ours,
    "opencv MIL": Mil,
    "Lucas-Kanade": LucasKanade,
    "never moves": Still,
}
PEERS = ("opencv MIL", "Lucas-Kanade")


def vot(data: Path) -> tuple[list[np.ndarray], list[Box | None]]:
    folder = data / "tracking" / "vot15_bag"
    frames = [read(path) for path in sorted((folder / "imgs").glob("*.jpg"))]
    truth: list[Box | None] = []
    for line in (folder / "groundtruth.txt").read_text().split():
        corners = np.array([float(v) for v in line.split(",")]).reshape(-1, 2)
        truth.append((*corners.min(0), *corners.max(0)))  # type: ignore[arg-type]
    return frames, truth


DAVIS_BY_HAND: dict[int, list[Box]] = {
    1: [(361, 210, 542, 372), (361, 206, 528, 367), (361, 210, 517, 367)],
    2: [(417, 119, 519, 322), (413, 115, 516, 326), (409, 116, 515, 333)],
}
"""Boxes of object 1 (bicycle) and 2 (rider) in the frames after the first."""


def davis(data: Path) -> list[tuple[list[np.ndarray], list[Box | None]]]:
    folder = data / "segmentation_davis"
    frames = [read(path) for path in sorted((folder / "images" / "bike").glob("*.jpg"))]
    mask = np.array(Image.open(next((folder / "masks" / "bike").glob("*.png"))))
    found: list[tuple[list[np.ndarray], list[Box | None]]] = []
    for number, boxes in DAVIS_BY_HAND.items():
        y, x = np.nonzero(mask == number)
        first = (float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1))
        found.append((frames, [first, *boxes]))
    return found


def twin(
    recordings: Path, truth: Path, count: int, length: int = 75
) -> Iterator[tuple[str, list[np.ndarray], list[Box | None]]]:
    """Stretches in which an object moves and stays in the picture, one a recording, objects in turn."""
    from components.shared.work.manifest import load_manifest

    manifest = load_manifest(recordings)
    found = 0
    for recording in manifest.recordings:
        scene = json.loads((truth / f"{recording.recording_id}.json").read_text())
        wanted = ("right_hand", "left_hand", "box", "held")[found % 4]
        boxes = scene["objects"][wanted]["boxes"]
        start = next((s for s in range(0, len(boxes) - length, 5) if usable(boxes[s : s + length])), None)
        if start is None:
            continue
        capture = cv2.VideoCapture(str(manifest.resolve(recording, recordings)))
        frames = []
        for index in range(start + length):
            frame = capture.read()[1]
            if index >= start:
                frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        yield f"{recording.recording_id} {wanted}", frames, [tuple(box) for box in boxes[start : start + length]]
        found += 1
        if found == count:
            return


def usable(boxes: list[list[int] | None]) -> bool:
    if any(box is None or min(box[2] - box[0], box[3] - box[1]) < 12 for box in boxes):
        return False
    centres = np.array([[box[0] + box[2], box[1] + box[3]] for box in boxes if box]) / 2
    return float(np.abs(np.diff(centres, axis=0)).sum()) > 40


def read(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


@dataclass
class Followed:
    """One sequence by one tracker."""

    overlap: float
    until_loss: int
    processor_ms: list[float]
    clock_ms: list[float]


def follow(make: Callable[[np.ndarray, Box], Any], frames: list[np.ndarray], truth: list[Box | None]) -> Followed:
    assert truth[0] is not None
    tracker, overlaps, processor, clock = make(frames[0], truth[0]), [], [], []
    for frame, true_box in zip(frames[1:], truth[1:], strict=False):
        start, start_clock = time.thread_time(), time.perf_counter()
        box = tracker.update(frame)
        processor.append((time.thread_time() - start) * 1e3)
        clock.append((time.perf_counter() - start_clock) * 1e3)
        if true_box is not None:
            overlaps.append(overlap(box, true_box))
    lost = next((index for index, value in enumerate(overlaps) if value < 0.1), len(overlaps))
    return Followed(float(np.mean(overlaps)), lost, processor, clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--twin", type=Path)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--sequences", type=int, default=20)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        recordings, truth = options.twin, options.truth
        if recordings is None:
            recordings, truth = render(Path(folder), options.sequences)
        groups: dict[str, list[tuple[list[np.ndarray], list[Box | None]]]] = {
            "VOT bag": [vot(options.data)],
            "DAVIS bike": davis(options.data),
            "twin": [(frames, boxes) for _, frames, boxes in twin(recordings, truth, options.sequences)],
        }
    header = f"{'sequences':16} {'tracker':14} {'overlap':>8} {'until loss':>11} {'processor ms':>13} {'clock ms':>9}"
    print(header)
    for group, sequences in groups.items():
        results = {name: [follow(make, *sequence) for sequence in sequences] for name, make in TRACKERS.items()}
        for name, found in results.items():
            processor, clock = (
                np.median(np.concatenate(v)) for v in zip(*((r.processor_ms, r.clock_ms) for r in found))
            )
            print(
                f"{group + f' ({len(sequences)})':16} {name:14} {np.mean([r.overlap for r in found]):8.3f} "
                f"{np.mean([r.until_loss for r in found]):11.1f} {processor:13.1f} {clock:9.1f}"
            )
        best = max(PEERS, key=lambda name: float(np.mean([r.overlap for r in results[name]])))
        gain = np.array([a.overlap - b.overlap for a, b in zip(results["pixelis"], results[best], strict=True)])
        error = 1.96 * gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else float("nan")
        print(f"{'':16} pixelis over {best}: {gain.mean():+.3f} ± {error:.3f}")


def render(folder: Path, count: int) -> tuple[Path, Path]:
    from components.data_synthesis.recordings.config import RecordingsConfig, TwinSection
    from components.data_synthesis.recordings.read import RecordingsInputs, RecordingsOutputs, read_recordings

    recordings, truth = folder / "recordings", folder / "truth"
    recordings.mkdir()
    truth.mkdir()
    section = TwinSection(num_train_people=2 * count, num_validation_people=1, num_test_people=1, train_session_s=10)
    read_recordings(RecordingsConfig(twin=section), RecordingsInputs(), RecordingsOutputs(recordings, truth))
    return recordings, truth


if __name__ == "__main__":
    main()

"""GET_PROPERTIES against what the twin's renderer painted, and ZOOM_IN against slicing.

    python benchmarks/operations_properties.py [--people 24]

The renderer's pictures are kept as they go to the encoder, so the truth is exact: an object's true mask is the pixels
of its box that carry the colour it was painted with, and its true name is that of this colour. GET_PROPERTIES sees the
decoded video. Objects with fewer than 60 such pixels in sight are left out. Rows:

    colours             name of the decoded pixels under the true mask = name of the painted colour
    colours, own light  the same against the object's colour before the person's light (gain, warmth) fell on it
    size                area of the object segmented from one inner point, against the true area
    orientation         measured long axis, under the true mask and under the segmented one, against the painter's
                        geometry (tools in the hand are tilted, in their holders level); unobstructed tools only
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from components.data_synthesis.recordings.config import TwinSection
from components.data_synthesis.recordings.twin import render as twin
from components.data_synthesis.recordings.twin.appearance import Look, draw_look
from components.data_synthesis.recordings.twin.draw import shade
from components.data_synthesis.recordings.twin.encode import Mp4
from components.data_synthesis.recordings.twin.people import Job, list_jobs
from components.shared.operations import OperationsConfig, Registry, default_registry
from components.shared.operations.colour_samples import NAMES
from components.shared.operations.colours import name_pixels
from components.shared.operations.masks import encode_mask
from components.shared.runtime.artifacts import read_json

EVERY = 50
"""Frames between the pictures looked at."""
PAINTED_WITH = {
    "right_hand": ("skin",),
    "left_hand": ("skin",),
    "scanner": ("scanner",),
    "pen": ("pen",),
    "tape": ("tape",),
    "box": ("carton",),
    "held": ("item", "item_label", "box_label", "ship_label"),
}
IN_HOLDER = 0.8
"""The painter's shade of a tool in its holder."""
TILTS = {"scanner": (28.0, 8.0), "pen": (28.0, 36.0)}
"""Run and rise of a tool's axis in the hand, in design pixels (draw.py)."""


class Kept(Mp4):
    """The encoder, keeping every picture that is looked at."""

    pictures: dict[int, np.ndarray] = {}

    def picture(self, bgr: np.ndarray, noise: np.ndarray | None = None) -> None:
        """Keep and encode one frame."""
        if self._count % EVERY == 0:
            Kept.pictures[self._count] = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        super().picture(bgr, noise)


@dataclass
class Seen:
    """One object in one decoded frame: its true mask, the colour painted and the one before the light, both RGB."""

    name: str
    frame: np.ndarray
    mask: np.ndarray
    painted: tuple[int, ...]
    own: tuple[int, ...]
    degrees: float | None
    in_holder: bool


def seen(job: Job, section: TwinSection, folder: Path) -> Iterator[Seen]:
    """Every object in sight in every looked-at frame of one person's recording."""
    Kept.pictures = {}
    twin.render(job, section, 0, folder, folder)
    look, plain = (
        draw_look(part, np.random.default_rng([0, job.number]))
        for part in (section, section.model_copy(update={"lighting": 0.0}))
    )
    scene = read_json(folder / f"{job.recording_id}.json")
    capture = cv2.VideoCapture(str(folder / twin.video_path(job)))
    for number in range(scene["num_frames"]):
        capture.grab()
        if number not in Kept.pictures:
            continue
        frame = cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
        for name, colours in PAINTED_WITH.items():
            if box := scene["objects"][name]["boxes"][number]:
                yield from objects(name, colours, box, Kept.pictures[number], frame, (look, plain))


def objects(
    name: str, colours: tuple[str, ...], box: list[int], painted: np.ndarray, frame: np.ndarray, looks: tuple[Look, ...]
) -> Iterator[Seen]:
    """The object of a box, once for each colour of its that is in sight."""
    x0, y0, x1, y1 = box
    for colour in colours:
        for factor in (1.0, IN_HOLDER) if name in {"scanner", "pen", "tape"} else (1.0,):
            light, own = (shade(look.colours[colour], factor)[::-1] for look in looks)
            mask = np.zeros(frame.shape[:2], bool)
            mask[y0:y1, x0:x1] = (painted[y0:y1, x0:x1] == light).all(2)
            if mask.sum() >= 60:
                yield Seen(name, frame, mask, light, own, tilt(name, factor, looks[0]), factor != 1.0)


def tilt(name: str, factor: float, look: Look) -> float | None:
    """Degrees of a tool's long axis, counter-clockwise; None where it has none."""
    if factor == IN_HOLDER:
        return 0.0 if name in {"scanner", "tape"} else None
    if name not in TILTS:
        return None
    run, rise = TILTS[name]
    return float(np.degrees(np.arctan2(rise, run))) * (-1 if look.mirrored else 1)


def name_of(rgb: tuple[int, ...]) -> str:
    return NAMES[int(name_pixels(np.array(rgb, np.uint8)))]


def call(registry: Registry, name: str, arguments: dict[str, Any], frame: np.ndarray) -> dict[str, Any] | None:
    result = registry.execute(name, {"frame": 0, **arguments}, [frame])
    return result.data if result.ok else None


def inner_point(mask: np.ndarray) -> dict[str, float]:
    """The place farthest from the mask's edge, in thousandths."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return {"x": (x + 0.5) * 1000 / mask.shape[1], "y": (y + 0.5) * 1000 / mask.shape[0]}


def turn(a: float, b: float) -> float:
    """Degrees between two axes."""
    return abs((a - b + 90) % 180 - 90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--segmented", type=int, default=120, help="Objects that are also segmented, drawn at random.")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    twin.Mp4 = Kept  # type: ignore[misc]
    section = TwinSection(
        num_train_people=options.people, num_validation_people=1, num_test_people=1, train_session_s=12, audio=False
    )
    found: list[Seen] = []
    with tempfile.TemporaryDirectory() as folder:
        for job in list_jobs(section)[: options.people]:
            found += seen(job, section, Path(folder))
    colours(found)
    pick = np.random.default_rng(0).permutation(len(found))[: options.segmented]
    sizes([found[i] for i in pick])
    orientations(found, options.segmented)
    zoom()


def colours(found: list[Seen]) -> None:
    registry = default_registry(OperationsConfig())
    counts: Counter[tuple[str, bool]] = Counter()
    own: Counter[bool] = Counter()
    wrong: Counter[str] = Counter()
    times = []
    for item in found:
        start = time.thread_time()
        data = call(registry, "GET_PROPERTIES", {"mask": encode_mask(item.mask)}, item.frame)
        times.append((time.thread_time() - start) * 1e3)
        assert data is not None
        said = data["colours"][0][0]
        counts[item.name, said == name_of(item.painted)] += 1
        own[said == name_of(item.own)] += 1
        if said != name_of(item.painted):
            wrong[f"{item.name} {item.painted}: {name_of(item.painted)} called {said}"] += 1
    right = sum(number for (_, good), number in counts.items() if good)
    print(f"colours: {right} of {counts.total()} names right ({right / counts.total():.1%})")
    print("  " + ", ".join(f"{n} {counts[n, True]}/{counts[n, True] + counts[n, False]}" for n in PAINTED_WITH))
    print(f"colours, own light: {own[True]} of {own.total()} ({own[True] / own.total():.1%})")
    print(f"GET_PROPERTIES p50 {np.median(times):.1f} ms of processor time (448x336, the cache's digest included)")
    print("\n".join(f"  wrong {number}x {what}" for what, number in wrong.most_common(8)))


def sizes(found: list[Seen]) -> None:
    registry = default_registry(OperationsConfig())
    ratios: dict[str, list[float]] = {name: [] for name in PAINTED_WITH}
    for item in found:
        segmented = call(registry, "SEGMENT_OBJECT_AT", inner_point(item.mask), item.frame)
        if segmented is None:
            ratios[item.name].append(0.0)
            continue
        data = call(registry, "GET_PROPERTIES", {"mask": segmented["mask"]}, item.frame)
        assert data is not None
        ratios[item.name].append(data["size"]["pixels"] / item.mask.sum())
    print("size, segmented from one point: median of measured over true area, share within a quarter")
    for name, values in ratios.items():
        close = np.mean(np.abs(np.array(values) - 1) <= 0.25)
        print(f"  {name:11} {len(values):4} objects  {np.median(values):5.2f}  {close:.0%}")


def orientations(found: list[Seen], limit: int) -> None:
    registry = default_registry(OperationsConfig())
    whole: Counter[tuple[str, bool]] = Counter()
    for item in found:
        whole[item.name, item.in_holder] = max(whole[item.name, item.in_holder], int(item.mask.sum()))
    tools = [i for i in found if i.degrees is not None and i.mask.sum() >= 0.8 * whole[i.name, i.in_holder]]
    print("orientation: median and 95th percentile of degrees off")
    for in_holder, state in ((False, "in the hand"), (True, "in the holder")):
        off: dict[str, list[float]] = {"true mask": [], "segmented": []}
        for number, item in enumerate(tool for tool in tools if tool.in_holder == in_holder):
            assert item.degrees is not None
            data = call(registry, "GET_PROPERTIES", {"mask": encode_mask(item.mask)}, item.frame)
            off["true mask"].append(missed(data, item.degrees))
            if number < limit // 3:
                segmented = call(registry, "SEGMENT_OBJECT_AT", inner_point(item.mask), item.frame)
                data = segmented and call(registry, "GET_PROPERTIES", {"mask": segmented["mask"]}, item.frame)
                off["segmented"].append(missed(data, item.degrees))
        for kind, values in off.items():
            middle, high = np.quantile(values, (0.5, 0.95))
            print(f"  {state:14} {kind:10} {len(values):4} tools  {middle:5.1f}  {high:5.1f}")


def missed(data: dict[str, Any] | None, degrees: float) -> float:
    """Degrees off; 90 where no axis was found."""
    if data is None or data["orientation_degrees"] is None:
        return 90.0
    return turn(data["orientation_degrees"], degrees)


def zoom() -> None:
    """ZOOM_IN: equality with slicing over random boxes, and its time at three frame sizes."""
    rng = np.random.default_rng(0)
    for width, height in ((448, 336), (1280, 720), (3840, 2160)):
        frame = rng.integers(0, 255, (height, width, 3), np.uint8)
        plain, square = default_registry(OperationsConfig(max_image_pixels=9_000_000)), default_registry()
        times, square_times, equal = [], [], 0
        for _ in range(200):
            x, y = rng.integers(0, 700, 2)
            w, h = rng.integers(150, 300, 2)
            call = {"frame": 0, "box": [int(x), int(y), int(x + w), int(y + h)], "padding": 0}
            start = time.perf_counter()
            result = plain.execute("ZOOM_IN", call, [frame])
            times.append((time.perf_counter() - start) * 1e3)
            x0, y0, x1, y1 = result.data["pixels"]
            equal += int(np.array_equal(result.image, frame[y0:y1, x0:x1]))
            start = time.perf_counter()
            square.execute("ZOOM_IN", call, [frame])
            square_times.append((time.perf_counter() - start) * 1e3)
        print(
            f"ZOOM_IN {width}x{height}: {equal} of 200 equal to slicing; p50 {np.median(times):.2f} ms, "
            f"with a 112x112 output {np.median(square_times):.2f} ms"
        )


if __name__ == "__main__":
    main()

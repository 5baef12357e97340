"""SEGMENT_OBJECT_AT beside GrabCut, flood fill and watershed used plainly, in one run on the same points.

    python benchmarks/operations_segment.py [--data ../shared/data] [--instances 150] [--fit]

One inner point an instance (the place farthest from its mask's edge) over the COCO sample and the two objects of the
DAVIS mask; mean intersection over union by size class (COCO's: area under 32², under 96², the rest). The choice between
candidates was fitted on the images at even places of the sorted list (`--fit` does it again and prints the weights), so
the figures are of the images at odd places. Peers: GrabCut with a rectangle of half the picture's sides around the
point, 5 iterations; flood fill with a tolerance of 20 against the seed; watershed with a disc at the point and the
picture's border as markers. Times are the thread's processor time, on pictures scaled to 640 px on the longer side. The
last lines give the paired difference to the best peer in each class, with its 95 % interval over instances.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image


@dataclass
class Instance:
    """One object to find."""

    image: Path
    mask: np.ndarray
    size: str
    fitted_on: bool

    def point(self) -> tuple[int, int]:
        depth = cv2.distanceTransform(np.pad(self.mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        return int(x), int(y)


def coco(data: Path) -> list[Instance]:
    annotations = json.loads(next((data / "coco_mini" / "annotations").glob("instances*.json")).read_text())
    images = {item["id"]: item for item in annotations["images"]}
    order = {number: place for place, number in enumerate(sorted(images))}
    found = []
    for item in annotations["annotations"]:
        if item["iscrowd"]:
            continue
        image = images[item["image_id"]]
        mask = np.zeros((image["height"], image["width"]), np.uint8)
        for polygon in item["segmentation"]:
            cv2.fillPoly(mask, [np.round(np.array(polygon).reshape(-1, 2)).astype(np.int32)], 1)
        if mask.sum() < 100:  # about 10 x 10 px: nothing a person could point at
            continue
        path = next((data / "coco_mini").glob(f"train*/{Path(image['file_name']).name}"))
        size = "small" if item["area"] < 32**2 else "medium" if item["area"] < 96**2 else "large"
        found.append(Instance(path, mask > 0, size, order[item["image_id"]] % 2 == 0))
    return found


def davis(data: Path) -> list[Instance]:
    """Each object of the one annotated frame."""
    folder = data / "segmentation_davis"
    path = next((folder / "masks" / "bike").glob("*.png"))
    mask = np.array(Image.open(path))
    image = folder / "images" / "bike" / f"{path.stem}.jpg"
    return [Instance(image, mask == number, "DAVIS", False) for number in np.unique(mask) if number]


def pixelis(image: np.ndarray, x: int, y: int) -> np.ndarray:
    from components.shared.operations.point_segmentation import segment_at

    found = segment_at(image, x, y)
    return found[0] if found else np.zeros(image.shape[:2], bool)


def grabcut(image: np.ndarray, x: int, y: int) -> np.ndarray:
    height, width = image.shape[:2]
    left, top = min(max(x - width // 4, 1), width // 2 - 1), min(max(y - height // 4, 1), height // 2 - 1)
    mask, back, front = np.zeros((height, width), np.uint8), np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(image, mask, (left, top, width // 2, height // 2), back, front, 5, cv2.GC_INIT_WITH_RECT)
    inside = ((mask == 1) | (mask == 3)).astype(np.uint8)
    labels = cv2.connectedComponents(inside)[1]
    return labels == labels[y, x] if labels[y, x] else np.zeros((height, width), bool)


def flood(image: np.ndarray, x: int, y: int) -> np.ndarray:
    mask = np.zeros((image.shape[0] + 2, image.shape[1] + 2), np.uint8)
    flags = 4 | (1 << 8) | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE
    cv2.floodFill(image.copy(), mask, (x, y), 0, (20,) * 3, (20,) * 3, flags)
    return mask[1:-1, 1:-1] > 0


def watershed(image: np.ndarray, x: int, y: int) -> np.ndarray:
    markers = np.zeros(image.shape[:2], np.int32)
    markers[[0, -1]] = markers[:, [0, -1]] = 2
    cv2.circle(markers, (x, y), 5, 1, -1)
    return cv2.watershed(np.ascontiguousarray(image), markers) == 1


METHODS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "pixelis": pixelis,
    "GrabCut": grabcut,
    "flood fill": flood,
    "watershed": watershed,
}


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 0.0


def load(instance: Instance) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Picture and mask at 640 px on the longer side, and the point."""
    image = cv2.cvtColor(cv2.imread(str(instance.image)), cv2.COLOR_BGR2RGB)
    scale = 640 / max(image.shape[:2])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    mask = cv2.resize(instance.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    x, y = instance.point()
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return resized, mask, min(int(x * scale), size[0] - 1), min(int(y * scale), size[1] - 1)


def compare(instances: list[Instance], names: list[str]) -> None:
    results: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for instance in instances:
        image, mask, x, y = load(instance)
        for name in names:
            method = METHODS[name]
            start = time.thread_time()
            found = method(image, x, y)
            times[name].append((time.thread_time() - start) * 1e3)
            results[name].setdefault(instance.size, []).append(overlap(found, mask))
    sizes = ["small", "medium", "large", "DAVIS"]
    counts = ", ".join(f"{size} {len(results[names[0]].get(size, []))}" for size in sizes)
    print(f"instances: {counts}")
    print(
        f"{'method':12} " + " ".join(f"{size:>8}" for size in sizes) + f" {'COCO all':>9} {'± 95 %':>7} {'ms p50':>8}"
    )
    for name, by_size in results.items():
        means = [np.mean(by_size[size]) if size in by_size else float("nan") for size in sizes]
        all_coco = np.concatenate([by_size[size] for size in sizes[:3] if size in by_size])
        row = " ".join(f"{mean:8.3f}" for mean in means)
        print(f"{name:12} {row} {all_coco.mean():9.3f} {interval(all_coco):7.3f} {np.median(times[name]):8.1f}")
    ours, peers = results["pixelis"], [name for name in names if name != "pixelis"]
    for size in [size for size in sizes if size in ours and peers]:
        best = max(peers, key=lambda name: float(np.mean(results[name][size])))
        gain = np.array(ours[size]) - np.array(results[best][size])
        print(f"pixelis over {best}, {size}: {gain.mean():+.3f} ± {interval(gain):.3f}")


def interval(values: np.ndarray) -> float:
    """Half width of the mean's 95 % interval."""
    return float(1.96 * values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def fit(instances: list[Instance]) -> None:
    """Least squares of the overlap on the candidates' features, ridge 10 in units of standard deviations."""
    from components.shared.operations.point_segmentation import at_source, candidates, features

    rows, values = [], []
    for instance in instances:
        image, mask, x, y = load(instance)
        found = candidates(image, x, y)
        for index, item in enumerate(found):
            rows.append(features(found, index, mask.shape))
            values.append(overlap(at_source(item, mask.shape), mask))
    matrix = np.array(rows)
    spread = matrix.std(0)
    spread[0] = 1.0
    scaled = matrix / spread
    weights = np.linalg.solve(scaled.T @ scaled + 10 * np.eye(len(spread)), scaled.T @ np.array(values)) / spread
    print(f"{len(instances)} instances, {len(rows)} candidates")
    print(", ".join(f"{weight:.4f}" for weight in weights))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--instances", type=int, default=150)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--fit", action="store_true")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    found = coco(options.data)
    if options.fit:
        fit([item for item in found if item.fitted_on])
        return
    held_out = [item for item in found if not item.fitted_on]
    pick = np.random.default_rng(0).permutation(len(held_out))[: options.instances]
    compare([held_out[i] for i in sorted(pick)] + davis(options.data), options.methods)


if __name__ == "__main__":
    main()

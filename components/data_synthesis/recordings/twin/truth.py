"""The scene's ground truth: what the renderer knows and the recordings do not say.

Only synthesis and tests may read it. `<truth>/<recording_id>.json` holds

    version, recording_id, width, height, fps, num_frames
    tag_values      the four pattern names
    orders          [{box, start_s, end_s, tag: {value, cell: [column, row], box: [x0, y0, x1, y1] px,
                      grid_box: [x0, y0, x1, y1] thousandths of the frame}}] in time order
    labels          [{text, box}] readable texts that stay in place, from left to right; null outside of the picture
    objects         {name: {shape: ellipse | rectangle, boxes: one [x0, y0, x1, y1] or null a frame}}

Pixel boxes are of the source frame, end exclusive. A mask is its shape drawn into its box: `object_mask`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from components.data_synthesis.recordings.twin.tag import GRID, VALUES, Tag

SHAPES = {"left_hand": "ellipse", "right_hand": "ellipse"}
OBJECTS = ("left_hand", "right_hand", "box", "held", "scanner", "tape", "pen")


@dataclass
class SceneTruth:
    """Collects one recording's ground truth frame by frame."""

    recording_id: str
    width: int
    height: int
    fps: int
    orders: list[dict[str, Any]] = field(default_factory=list)
    labels: list[dict[str, Any]] = field(default_factory=list)
    boxes: dict[str, list[list[int] | None]] = field(default_factory=lambda: {name: [] for name in OBJECTS})

    def add_order(self, box: int, start_s: float, end_s: float, tag: Tag) -> None:
        """Record one order and its tag."""
        step = 1000 // GRID
        column, row = tag.cell
        grid_box = [column * step, row * step, (column + 1) * step, (row + 1) * step]
        entry = {"value": tag.value, "cell": list(tag.cell), "box": list(tag.box), "grid_box": grid_box}
        self.orders.append({"box": box, "start_s": round(start_s, 3), "end_s": round(end_s, 3), "tag": entry})

    def add_frame(self, boxes: dict[str, tuple[int, int, int, int] | None]) -> None:
        """Record one frame's objects."""
        for name, series in self.boxes.items():
            box = boxes.get(name)
            series.append(list(box) if box else None)

    def write(self, folder: Path) -> None:
        """Write `<folder>/<recording_id>.json`, compact."""
        value = {
            "version": 1,
            "recording_id": self.recording_id,
            "width": self.width,
            "height": self.height,
            "fps": self.fps,
            "num_frames": len(self.boxes[OBJECTS[0]]),
            "tag_values": list(VALUES),
            "orders": self.orders,
            "labels": self.labels,
            "objects": {n: {"shape": SHAPES.get(n, "rectangle"), "boxes": b} for n, b in self.boxes.items()},
        }
        (folder / f"{self.recording_id}.json").write_text(json.dumps(value, separators=(",", ":")))


def object_mask(truth: dict[str, Any], name: str, frame: int) -> np.ndarray:
    """Mask of one object in one frame, bool (height, width); all False where it is not in the picture."""
    mask = np.zeros((truth["height"], truth["width"]), bool)
    box = truth["objects"][name]["boxes"][frame]
    if box is None:
        return mask
    x0, y0, x1, y1 = box
    if truth["objects"][name]["shape"] == "rectangle":
        mask[y0:y1, x0:x1] = True
        return mask
    y, x = np.mgrid[y0:y1, x0:x1]
    inside = ((x + 0.5 - (x0 + x1) / 2) / max((x1 - x0) / 2, 0.5)) ** 2
    inside = inside + ((y + 0.5 - (y0 + y1) / 2) / max((y1 - y0) / 2, 0.5)) ** 2
    mask[y0:y1, x0:x1] = inside <= 1
    return mask

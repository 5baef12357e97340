"""A contact sheet: every visual operation once, on real pictures or on twin frames.

    python benchmarks/operations_sheet.py --output docs/operations.jpg --data ../shared/data   # real pictures
    python benchmarks/operations_sheet.py --output sheet.jpg                                   # twin, rendered here

The real pictures are those of the data folder that may be shown to anyone: NASA's film of the Webb telescope (public
domain), imageio's cockatoo (CC0), Intel's bottles (sample-videos, CC BY 4.0) and a sign of ICDAR 2015's incidental
scenes (CC BY 4.0).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from components.shared.operations import OperationsConfig, default_registry
from components.shared.operations.command import load_frames
from components.shared.operations.drawing import caption, draw_result

WIDTH = 960
"""Pixels across the sheet: three panels."""
Row = tuple[str, dict[str, Any], list[np.ndarray]]


def twin_rows() -> list[Row]:
    from components.data_synthesis.recordings.config import RecordingsConfig, TwinSection
    from components.data_synthesis.recordings.read import RecordingsInputs, RecordingsOutputs, read_recordings

    with tempfile.TemporaryDirectory() as folder:
        recordings, truth = Path(folder) / "recordings", Path(folder) / "truth"
        recordings.mkdir()
        truth.mkdir()
        section = TwinSection(num_train_people=2, num_validation_people=1, num_test_people=1, train_session_s=8)
        read_recordings(RecordingsConfig(twin=section), RecordingsInputs(), RecordingsOutputs(recordings, truth))
        frames = load_frames([min(recordings.rglob("*.mp4"))])
        scene = json.loads(min(truth.glob("*.json")).read_text())
    height, width = frames[0].shape[:2]
    hand = scene["objects"]["right_hand"]["boxes"]
    cartons = scene["objects"]["box"]["boxes"]
    shown = next(k for k in range(30, len(cartons)) if cartons[k] and cartons[k][2] - cartons[k][0] > 60 and hand[k])
    tag = [order for order in scene["orders"] if order["start_s"] <= shown / scene["fps"]][-1]["tag"]
    start = next(k for k in range(len(hand)) if hand[k])

    def thousandths(pixels: list[int]) -> list[int]:
        x0, y0, x1, y1 = pixels
        return [x0 * 1000 // width, y0 * 1000 // height, x1 * 1000 // width, y1 * 1000 // height]

    left, top, right, bottom = thousandths(cartons[shown])
    return [
        ("ZOOM_IN", {"frame": shown, "box": tag["grid_box"], "padding": 0}, frames),
        (
            "SEGMENT_OBJECT_AT",
            {"frame": shown, "x": (left + right) / 2, "y": (top + bottom) / 2},
            frames,
        ),
        ("GET_PROPERTIES", {"frame": shown, "box": thousandths(tag["box"])}, frames),
        ("READ_TEXT", {"frame": shown, "box": [0, 0, 1000, 300]}, frames),
        ("TRACK_OBJECT", {"frame": start, "box": thousandths(hand[start]), "to": start + 60}, frames),
    ]


def real_rows(data: Path) -> list[Row]:
    telescope = still(data / "clips" / "nasa_13013.mp4", 170)
    bottles = still(data / "clips" / "bottle-detection.mp4", 100)
    sign = load_frames([data / "ocr" / "icdar2015" / "img_1.jpg"])
    cockatoo = load_frames([data / "clips" / "cockatoo.mp4"])[:60]
    return [
        ("ZOOM_IN", {"frame": 0, "box": [330, 100, 620, 640]}, telescope),
        ("SEGMENT_OBJECT_AT", {"frame": 0, "x": 493, "y": 600}, bottles),
        ("GET_PROPERTIES", {"frame": 0, "box": [475, 310, 510, 350]}, bottles),
        ("READ_TEXT", {"frame": 0, "box": [250, 0, 600, 320]}, sign),
        ("TRACK_OBJECT", {"frame": 0, "box": [330, 40, 510, 420]}, cockatoo),
    ]


def still(film: Path, number: int) -> list[np.ndarray]:
    """One frame of a film."""
    return [load_frames([film])[number]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    registry = default_registry(OperationsConfig())
    panels = []
    for name, arguments, frames in real_rows(options.data) if options.data else twin_rows():
        result = registry.execute(name, arguments, frames)
        print(name, result.text)
        panels += [caption(f"{name} {json.dumps(arguments)}", WIDTH), draw_result(frames, result, width=WIDTH // 3)]
    padded = [np.pad(p, ((0, 0), (0, WIDTH - p.shape[1]), (0, 0)), constant_values=255) for p in panels]
    sheet = cv2.cvtColor(np.concatenate(padded), cv2.COLOR_RGB2BGR)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(options.output), sheet, [cv2.IMWRITE_JPEG_QUALITY, 80])


if __name__ == "__main__":
    main()

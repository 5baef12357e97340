"""A contact sheet: every visual operation once, on twin frames or on real pictures.

    python benchmarks/operations_sheet.py --output docs/operations.jpg                     # twin, rendered here
    python benchmarks/operations_sheet.py --output sheet.jpg --data ../shared/data         # real pictures

Real pictures must not be published, so only the twin's sheet stands in docs.
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
    coco = load_frames([sorted((data / "coco_mini").glob("train*/*.jpg"))[3]])
    bike = load_frames([sorted((data / "segmentation_davis" / "images" / "bike").glob("*.jpg"))[0]])
    text = load_frames([sorted((data / "ocr").glob("icdar*/img_1.jpg"))[0]])
    bag = load_frames(sorted((data / "tracking" / "vot15_bag" / "imgs").glob("*.jpg")))
    first = (data / "tracking" / "vot15_bag" / "groundtruth.txt").read_text().split()[0]
    corners = np.array([float(v) for v in first.split(",")]).reshape(-1, 2)
    height, width = bag[0].shape[:2]
    target = (np.array([*corners.min(0), *corners.max(0)]) * 1000 / [width, height, width, height]).round(1).tolist()
    return [
        ("ZOOM_IN", {"frame": 0, "box": [300, 100, 560, 400]}, text),
        ("SEGMENT_OBJECT_AT", {"frame": 0, "x": 450, "y": 550}, coco),
        ("SEGMENT_OBJECT_AT", {"frame": 0, "x": 500, "y": 500}, bike),
        ("GET_PROPERTIES", {"frame": 0, "box": [350, 350, 650, 650]}, coco),
        ("READ_TEXT", {"frame": 0}, text),
        ("TRACK_OBJECT", {"frame": 0, "box": target}, bag),
    ]


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
        picture = draw_result(frames, result, width=320)
        panels.append(np.concatenate([caption(f"{name} {arguments}", picture.shape[1]), picture]))
    width = max(panel.shape[1] for panel in panels)
    padded = [np.pad(p, ((0, 12), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in panels]
    sheet = cv2.cvtColor(np.concatenate(padded), cv2.COLOR_RGB2BGR)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(options.output), sheet, [cv2.IMWRITE_JPEG_QUALITY, 80])


if __name__ == "__main__":
    main()

"""GET_PROPERTIES against what the twin's renderer knows: colour names and sizes, and ZOOM_IN against slicing.

    python benchmarks/operations_properties.py [--people 24]

Under the default light, each person's known colours (hands, gloves or skin; scanner; pen) are compared with what
GET_PROPERTIES calls the object's inner part in the decoded video. The expected name is that of the colour the renderer
painted with; colours within a Lab distance of 6 of another name's are `borderline` and also shown apart. Masks come
from the scene truth, so only colours can be wrong here.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from components.data_synthesis.recordings.config import RecordingsConfig, TwinSection
from components.data_synthesis.recordings.read import RecordingsInputs, RecordingsOutputs, read_recordings
from components.data_synthesis.recordings.twin.appearance import draw_look
from components.data_synthesis.recordings.twin.people import list_jobs
from components.data_synthesis.recordings.twin.render import video_path
from components.data_synthesis.recordings.twin.truth import object_mask
from components.shared.operations import OperationsConfig, default_registry
from components.shared.operations.colours import NAMES, name_pixels
from components.shared.operations.masks import encode_mask

PAINTED_WITH = {"right_hand": "skin", "left_hand": "skin", "scanner": "scanner", "pen": "pen"}


def is_borderline(rgb: np.ndarray) -> bool:
    """Whether a colour 6 Lab units away has another name."""
    lab = cv2.cvtColor((rgb.reshape(1, 1, 3) / 255).astype(np.float32), cv2.COLOR_RGB2LAB)[0, 0]
    around = lab + 6 * np.array([[a, b, c] for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)], np.float32)
    near = cv2.cvtColor(around[None].astype(np.float32), cv2.COLOR_LAB2RGB)[0].clip(0, 1)
    return len(set(name_pixels((near * 255).astype(np.uint8)).tolist())) > 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=24)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    section = TwinSection(
        num_train_people=options.people, num_validation_people=1, num_test_people=1, train_session_s=12, audio=False
    )
    registry = default_registry(OperationsConfig())
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        recordings, truth = Path(folder) / "recordings", Path(folder) / "truth"
        recordings.mkdir()
        truth.mkdir()
        read_recordings(RecordingsConfig(twin=section), RecordingsInputs(), RecordingsOutputs(recordings, truth))
        for job in list_jobs(section)[: options.people]:
            look = draw_look(section, np.random.default_rng([0, job.number]))
            scene = json.loads((truth / f"{job.recording_id}.json").read_text())
            capture = cv2.VideoCapture(str(recordings / video_path(job)))
            for number in range(scene["num_frames"]):
                frame = capture.read()[1]
                if number % 60:
                    continue
                rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                for name, colour in PAINTED_WITH.items():
                    mask = object_mask(scene, name, number)
                    inner = cv2.erode(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
                    if inner.sum() < 60 or covered(scene, name, number):
                        continue
                    start = time.perf_counter()
                    result = registry.execute("GET_PROPERTIES", {"frame": 0, "mask": encode_mask(inner)}, [rgb])
                    times.append((time.perf_counter() - start) * 1e3)
                    painted = np.array(look.colours[colour][::-1], np.uint8)
                    expected = NAMES[int(name_pixels(painted))]
                    kind = "borderline" if is_borderline(painted) else "clear"
                    right = result.data["colours"][0][0] == expected
                    counts[f"{kind} {'right' if right else 'wrong'}"] += 1
                    if not right and kind == "clear":
                        wrong.append(f"{job.recording_id} {name}: {expected} called {result.data['colours']}")
    for kind in ("clear", "borderline"):
        right, total = counts[f"{kind} right"], counts[f"{kind} right"] + counts[f"{kind} wrong"]
        print(f"colour names, {kind}: {right} of {total} right ({right / max(total, 1):.1%})")
    right = counts["clear right"] + counts["borderline right"]
    print(f"colour names, all: {right} of {counts.total()} right ({right / counts.total():.1%})")
    print(f"GET_PROPERTIES p50 {np.median(times):.1f} ms (448x336, the frame's digest for the cache included)")
    print("\n".join(wrong[:8]))
    zoom()


def covered(scene: dict, name: str, number: int) -> bool:  # type: ignore[type-arg]
    """Whether another object's box, or the tag, overlaps this one's."""
    box = scene["objects"][name]["boxes"][number]
    others = [item["boxes"][number] for other, item in scene["objects"].items() if other not in (name, "box")]
    others += [order["tag"]["box"] for order in scene["orders"]]
    return any(
        o and min(box[2], o[2] + 6) > max(box[0], o[0] - 6) and min(box[3], o[3] + 6) > max(box[1], o[1] - 6)
        for o in others
    )


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

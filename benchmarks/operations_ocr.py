"""READ_TEXT beside the OCR library it stands on, in one run on the same pictures.

    python benchmarks/operations_ocr.py [--data ../shared/data]

Scenes (ICDAR 2015, a receipt): a true word counts as read when a line whose box holds its centre contains it (letters
and digits only, case ignored); words marked ### do not count; words of one character neither. Word crops: the whole
text must match in the same sense; character error rate is the edit distance over the true length.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

Box = tuple[float, float, float, float]
Reader = Callable[[np.ndarray], list[tuple[str, Box]]]


def plain_engine() -> Any:
    from rapidocr_onnxruntime import RapidOCR

    return RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)


def library() -> Reader:
    engine = plain_engine()

    def read(image: np.ndarray) -> list[tuple[str, Box]]:
        found, _ = engine(np.ascontiguousarray(image[..., ::-1]))
        lines = []
        for corners, text, _score in found or ():
            points = np.array(corners)
            lines.append((text, (*points.min(0), *points.max(0))))
        return lines  # type: ignore[return-value]

    return read


def library_recognition() -> Reader:
    """The library told that the picture is one line: only sensible for word crops."""
    engine = plain_engine()

    def read(image: np.ndarray) -> list[tuple[str, Box]]:
        found, _ = engine(np.ascontiguousarray(image[..., ::-1]), use_det=False)
        return [(item[-2], (0, 0, image.shape[1], image.shape[0])) for item in found or ()]

    return read


def ours() -> Reader:
    from components.shared.operations.read_text import read_lines

    return lambda image: [(line.text, line.box) for line in read_lines(image)]


def normal(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())


def distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def read_image(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def scenes(data: Path) -> list[tuple[np.ndarray, list[tuple[str, Box]]]]:
    found = []
    for path in sorted((data / "ocr").glob("icdar*/img_*.jpg")):
        words = []
        for line in (path.parent / f"gt_{path.stem}.txt").read_text("utf-8-sig").splitlines():
            *numbers, text = line.split(",", 8)
            corners = np.array([float(v) for v in numbers]).reshape(-1, 2)
            words.append((text, (*corners.min(0), *corners.max(0))))
        found.append((read_image(path), words))
    for path in sorted((data / "ocr" / "wildreceipt").glob("*.json")):
        words = []
        for item in json.loads(path.read_text())["annotations"]:
            corners = np.array(item["box"]).reshape(-1, 2)
            words += [(item["text"], (*corners.min(0), *corners.max(0)))]
        found.append((read_image(path.with_suffix("")), words))
    return found  # type: ignore[return-value]


def crops(data: Path) -> list[tuple[np.ndarray, str]]:
    found = []
    for folder in ("words", "clova_demo"):
        for name, text in json.loads((data / "ocr" / folder / "labels.json").read_text()).items():
            found.append((read_image(data / "ocr" / folder / name), text))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    cv2.setNumThreads(1)
    scenery, words = scenes(options.data), crops(options.data)
    print(f"{'reader':28} {'scene words':>14} {'crop words':>11} {'crop CER':>9} {'s/scene p50':>12}")
    for name, make in (("pixelis", ours), ("RapidOCR", library), ("RapidOCR, one line (crops)", library_recognition)):
        read = make()
        read(words[0][0])
        hits = total = 0
        times = []
        for image, truth in scenery if name != "RapidOCR, one line (crops)" else ():
            start = time.perf_counter()
            lines = read(image)
            times.append(time.perf_counter() - start)
            for text, box in truth:
                wanted = normal(text)
                if "###" in text or len(wanted) < 2:
                    continue
                x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
                holding = [t for t, b in lines if b[0] <= x <= b[2] and b[1] <= y <= b[3]]
                hits += any(wanted in normal(t) for t in holding)
                total += 1
        exact = errors = length = 0
        for image, text in words:
            said, wanted = normal("".join(t for t, _ in read(image))), normal(text)
            exact += said == wanted
            errors += distance(said, wanted)
            length += len(wanted)
        scene = f"{hits}/{total} {hits / total:.3f}" if total else "-"
        seconds = f"{np.median(times):12.2f}" if times else f"{'-':>12}"
        print(f"{name:28} {scene:>14} {f'{exact}/{len(words)}':>11} {errors / length:9.3f} {seconds}")


if __name__ == "__main__":
    main()

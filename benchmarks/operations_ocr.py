"""READ_TEXT beside the OCR library it stands on, in one run on the same pictures.

    python benchmarks/operations_ocr.py [--data ../shared/data]

Scenes (ICDAR 2015) and a receipt: a true word counts as read when a line whose box holds its centre contains it
(letters and digits only, case ignored); words marked ### do not count, nor words of one character. Character error rate
of scenes: edits between each true word and the nearest piece of those lines, all of its letters where no line is there,
over all letters. Word crops: the whole text must match in the same sense; character error rate is the edit distance
over the true length.
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


def nearest_piece(word: str, line: str) -> int:
    """Edits between a word and the piece of a line most like it: the line's ends cost nothing."""
    row = [0] * (len(line) + 1)
    for i, x in enumerate(word, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(line, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return min(row)


def read_image(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def scenes(data: Path) -> list[tuple[str, np.ndarray, list[tuple[str, Box]]]]:
    """Kind, picture and true words with their boxes."""
    found: list[Any] = []
    for path in sorted((data / "ocr").glob("icdar*/img_*.jpg")):
        words = []
        for line in (path.parent / f"gt_{path.stem}.txt").read_text("utf-8-sig").splitlines():
            *numbers, text = line.split(",", 8)
            corners = np.array([float(v) for v in numbers]).reshape(-1, 2)
            words.append((text, (*corners.min(0), *corners.max(0))))
        found.append(("icdar", read_image(path), words))
    for path in sorted((data / "ocr" / "wildreceipt").glob("*.json")):
        words = []
        for item in json.loads(path.read_text())["annotations"]:
            corners = np.array(item["box"]).reshape(-1, 2)
            words += [(item["text"], (*corners.min(0), *corners.max(0)))]
        found.append(("receipt", read_image(path.with_suffix("")), words))
    return found


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
    groups = [group for group in ("icdar", "receipt") if any(name == group for name, _, _ in scenery)]
    head = "".join(f"{group + ' words':>16} {'CER':>6}" for group in groups)
    print(f"{'reader':26} {head} {'crop words':>11} {'CER':>6} {'s/scene p50':>12}")
    for name, make in (("pixelis", ours), ("RapidOCR", library), ("RapidOCR, one line", library_recognition)):
        read = make()
        read(words[0][0])
        cells, times = "", []
        for group in groups:
            if make is library_recognition:
                cells += f"{'-':>16} {'-':>6}"
                continue
            found = [scene(read, image, truth) for kind, image, truth in scenery if kind == group]
            hits, total, errors, letters = (sum(part) for part in zip(*(item[:4] for item in found), strict=True))
            times += [item[4] for item in found]
            cells += f"{f'{hits}/{total} {hits / total:.3f}':>16} {errors / letters:6.3f}"
        exact = errors = length = 0
        for image, text in words:
            said, wanted = normal("".join(t for t, _ in read(image))), normal(text)
            exact += said == wanted
            errors += distance(said, wanted)
            length += len(wanted)
        seconds = f"{np.median(times):12.2f}" if times else f"{'-':>12}"
        print(f"{name:26} {cells} {f'{exact}/{len(words)}':>11} {errors / length:6.3f} {seconds}")


def scene(read: Reader, image: np.ndarray, truth: list[tuple[str, Box]]) -> tuple[int, int, int, int, float]:
    """Words read, words, wrong letters, letters and seconds of one picture."""
    start = time.perf_counter()
    lines = read(image)
    seconds = time.perf_counter() - start
    hits = total = errors = letters = 0
    for text, box in truth:
        wanted = normal(text)
        if "###" in text or len(wanted) < 2:
            continue
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        holding = [normal(t) for t, b in lines if b[0] <= x <= b[2] and b[1] <= y <= b[3]]
        hits += any(wanted in line for line in holding)
        total += 1
        errors += min((nearest_piece(wanted, line) for line in holding), default=len(wanted))
        letters += len(wanted)
    return hits, total, errors, letters, seconds


if __name__ == "__main__":
    main()

"""READ_TEXT: the text in a frame or a region of it, with boxes and confidence.

Role: RapidOCR (PP-OCRv4 models that ship in its wheel, onnxruntime) behind the registry, loaded once a process.
What is added to the library: the region is cropped at source resolution; a small region is enlarged before detection;
a low, flat region (a tight crop of one line) is also recognised whole, and the reading with more sure characters wins.
Without the extra `ocr` the operation answers with the error `unavailable`; nothing is read by other means.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pydantic import Field

from components.shared.operations.arguments import Arguments, BoxThousandths, FrameIndex
from components.shared.operations.config import OperationsConfig
from components.shared.operations.frames import to_pixels, to_thousandths
from components.shared.operations.operation import Operation, only_frame
from components.shared.operations.result import Drawing, OperationFault, OperationResult

SMALL_SIDE = 320
"""Regions with a shorter side are enlarged, at most threefold."""
MAX_SIDE = 2000
"""Longer sides are reduced before detection."""
LINE_HEIGHT = 200
"""Flat regions up to this height may be a tight crop of one line: they are also recognised whole."""
SURE = 0.5
"""Least confidence of a line that is reported."""
_engine_lock = threading.Lock()


class ReadTextArguments(Arguments):
    """Which region of which frame."""

    frame: FrameIndex
    box: BoxThousandths | None = Field(None, description="[x0, y0, x1, y1] in thousandths; the whole frame without it.")


@dataclass(frozen=True)
class Line:
    """One line of text: pixel box (x0, y0, x1, y1) in the image given, and the recogniser's confidence."""

    text: str
    box: tuple[int, int, int, int]
    confidence: float


@functools.lru_cache(maxsize=1)
def engine() -> Any:
    """The OCR engine, loaded at the first call.

    Raises:
        OperationFault: the extra `ocr` is not installed.
    """
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ImportError:
        raise OperationFault(
            "unavailable", "no OCR library is installed here.", "another operation (or: pip install 'pixelis[ocr]')"
        ) from None
    return RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1, max_side_len=MAX_SIDE)


def read_lines(image: np.ndarray) -> list[Line]:
    """Lines of text in uint8 RGB (height, width, 3), top to bottom."""
    height, width = image.shape[:2]
    scale = min(max(SMALL_SIDE / min(height, width), 1.0), 3.0, max(MAX_SIDE / max(height, width), 1.0))
    bgr = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR)
    larger = cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) if scale > 1 else bgr
    with _engine_lock:  # the library keeps per-call state
        lines = detected(engine()(larger)[0], scale, width, height)
        if height <= LINE_HEIGHT and 1.2 * height <= width <= 20 * height:
            alone = recognised(engine()(bgr, use_det=False)[0], width, height)
            if alone and read_surely([alone]) > read_surely(lines):
                return [alone]
    return lines


def read_surely(lines: Sequence[Line]) -> float:
    """Characters read, each weighted by its line's confidence."""
    return sum(len(line.text) * line.confidence for line in lines)


def recognised(found: Any, width: int, height: int) -> Line | None:
    """The recogniser's reading of a whole picture as one line, None where it is not sure of any text."""
    text, score = (found or [["", 0.0]])[0][-2:]
    return Line(text, (0, 0, width, height), float(score)) if text.strip() and float(score) >= SURE else None


def detected(found: Any, scale: float, width: int, height: int) -> list[Line]:
    """The engine's lines in pixels of the picture before it was enlarged by `scale`."""
    lines = []
    for corners, text, score in found or ():
        points = np.asarray(corners, np.float64) / scale
        x0, y0 = np.floor(points.min(0)).astype(int)
        x1, y1 = np.ceil(points.max(0)).astype(int)
        box = (max(int(x0), 0), max(int(y0), 0), min(int(x1), width), min(int(y1), height))
        if text.strip() and box[2] > box[0] and box[3] > box[1]:
            lines.append(Line(text, box, float(score)))
    return lines


def read_text(config: OperationsConfig) -> Operation:
    """The READ_TEXT operation."""

    def run(arguments: ReadTextArguments, frames: Sequence[np.ndarray]) -> OperationResult:
        frame = frames[arguments.frame]
        height, width = frame.shape[:2]
        x0, y0, x1, y1 = to_pixels(arguments.box or (0, 0, 1000, 1000), width, height)
        if min(x1 - x0, y1 - y0) < 4:
            raise OperationFault("crop_too_small", f"the region is {x1 - x0}x{y1 - y0} px.", "at least 4 px a side")
        lines = read_lines(frame[y0:y1, x0:x1])
        drawings, entries = [], []
        for line in lines:
            box = (line.box[0] + x0, line.box[1] + y0, line.box[2] + x0, line.box[3] + y0)
            thousandths = list(to_thousandths(box, width, height))
            entries.append({"text": line.text, "box": thousandths, "confidence": round(line.confidence, 3)})
            drawings.append(Drawing(arguments.frame, box, label=line.text))
        text = "; ".join(f'"{line.text}" ({line.confidence:.2f})' for line in lines) or "no text"
        return OperationResult(True, text, data={"lines": entries}, drawings=tuple(drawings))

    return Operation(
        "READ_TEXT",
        "Read the text in a frame or a region of it.",
        ReadTextArguments,
        run,
        example={"frame": 8, "box": [250, 0, 500, 250]},
        frames_used=only_frame,
        prepare=engine,
    )

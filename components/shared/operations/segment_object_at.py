"""SEGMENT_OBJECT_AT: the object under a point of a frame, as mask, box and score.

Backend `classical` is OpenCV's GrabCut at several sizes with a fitted choice between them (point_segmentation.py).
Backend `sam2` is SAM 2 through transformers (sam2.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from components.shared.operations import point_segmentation, sam2
from components.shared.operations.arguments import Arguments, Coordinate, FrameIndex
from components.shared.operations.config import OperationsConfig
from components.shared.operations.frames import to_thousandths
from components.shared.operations.masks import encode_mask, mask_box
from components.shared.operations.operation import Operation, only_frame
from components.shared.operations.result import Drawing, OperationFault, OperationResult

MIN_SIDE = 16
"""Frames with a smaller side hold nothing to segment."""


class SegmentArguments(Arguments):
    """A point on an object."""

    frame: FrameIndex
    x: Coordinate = Field(description="Column in thousandths of the frame's width.")
    y: Coordinate = Field(description="Row in thousandths of the frame's height.")


def segment_object_at(config: OperationsConfig) -> Operation:
    """The SEGMENT_OBJECT_AT operation."""

    def find(frame: np.ndarray, x: int, y: int) -> tuple[np.ndarray, float] | None:
        if config.segment_backend == "sam2":
            return sam2.segment_at(frame, x, y, sam2.configured_model(config, "Sam2Model"))
        return point_segmentation.segment_at(frame, x, y)

    def run(arguments: SegmentArguments, frames: Sequence[np.ndarray]) -> OperationResult:
        frame = frames[arguments.frame]
        height, width = frame.shape[:2]
        if min(height, width) < MIN_SIDE:
            raise OperationFault(
                "invalid_frames", f"the frame is {width}x{height} px.", f"sides of {MIN_SIDE} px or more"
            )
        x = min(int(arguments.x * width / 1000), width - 1)
        y = min(int(arguments.y * height / 1000), height - 1)
        found = find(frame, x, y)
        if found is None:
            raise OperationFault("nothing_found", "no object stands out at this point.", "a point inside an object")
        mask, score = found
        box = mask_box(mask)
        thousandths = list(to_thousandths(box, width, height))
        share = float(mask.mean())
        data = {"box": thousandths, "score": round(score, 3), "share": round(share, 4), "mask": encode_mask(mask)}
        text = f"object in box {thousandths}, {share:.1%} of the frame, score {score:.2f}"
        return OperationResult(True, text, data=data, drawings=(Drawing(arguments.frame, box, mask, f"{score:.2f}"),))

    return Operation(
        "SEGMENT_OBJECT_AT",
        "Find the object under a point: its mask, box and a score.",
        SegmentArguments,
        run,
        example={"frame": 8, "x": 500, "y": 400},
        version=f"2 {config.segment_backend} {config.sam2_model} {config.sam2_revision}",
        frames_used=only_frame,
        prepare=(lambda: sam2.configured_model(config, "Sam2Model")) if config.segment_backend == "sam2" else None,
    )

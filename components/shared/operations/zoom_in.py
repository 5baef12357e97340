"""ZOOM_IN: a crop of one frame at source resolution.

Role: shows the policy pixels that its downscaled view does not hold. The region is a box, or a point and a factor, in
thousandths of the source frame; context of `padding` times the box's size is added on each side, clipped to the frame.
Guarantees: without an output size the result is exactly `frame[y0:y1, x0:x1]`, the smallest pixel box that covers the
region. With one, the crop is scaled to fit a square (area averaging down, cubic up): `letterbox` keeps its shape,
centred on black; `resize` stretches it. A crop with a side of 28 px or less is refused: there is nothing to see in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from components.shared.operations.arguments import Arguments, BoxThousandths, FrameIndex, Point
from components.shared.operations.config import OperationsConfig
from components.shared.operations.frames import to_pixels, to_thousandths
from components.shared.operations.operation import Operation, only_frame
from components.shared.operations.result import Drawing, OperationFault, OperationResult


class ZoomInArguments(Arguments):
    """Which region of which frame."""

    frame: FrameIndex
    box: BoxThousandths | None = None
    point: Point | None = Field(None, description="Instead of a box: [x, y] of the centre, in thousandths.")
    factor: Annotated[float, Field(ge=1, le=32)] | None = Field(
        None, description="With a point: magnification from 1 to 32 (2 when left out)."
    )
    padding: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Context on each side as a share of the box, from 0 to 1."
    )

    @model_validator(mode="after")
    def _one_region(self) -> Self:
        if (self.box is None) == (self.point is None):
            raise ValueError("give either a box or a point")
        if self.factor is not None and self.point is None:
            raise ValueError("factor goes with a point, not with a box")
        return self

    def region(self) -> tuple[float, float, float, float]:
        """The box asked for in thousandths, inside the frame, without padding."""
        if self.box is not None:
            return self.box
        assert self.point is not None
        side = 1000 / (self.factor or 2.0)
        left = min(max(self.point[0] - side / 2, 0.0), 1000 - side)
        top = min(max(self.point[1] - side / 2, 0.0), 1000 - side)
        return left, top, left + side, top + side


def padded(region: Sequence[float], padding: float) -> tuple[float, float, float, float]:
    """A box in thousandths grown by `padding` times its size on each side, clipped to the frame."""
    x0, y0, x1, y1 = region
    dx, dy = (x1 - x0) * padding, (y1 - y0) * padding
    return max(x0 - dx, 0.0), max(y0 - dy, 0.0), min(x1 + dx, 1000.0), min(y1 + dy, 1000.0)


def fit_square(image: np.ndarray, size: int, fit: str) -> np.ndarray:
    """Scale an RGB image to (size, size, 3), letterboxed on black or stretched."""
    import cv2

    height, width = image.shape[:2]
    if fit == "resize":
        new_width = new_height = size
    else:
        scale = size / max(height, width)
        new_width, new_height = max(round(width * scale), 1), max(round(height * scale), 1)
    if (new_width, new_height) == (width, height):
        scaled = np.ascontiguousarray(image)
    else:
        smaller = new_width * new_height < width * height
        scaled = cv2.resize(
            image, (new_width, new_height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
        )
    if (new_width, new_height) == (size, size):
        return scaled
    square = np.zeros((size, size, 3), np.uint8)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    square[top : top + new_height, left : left + new_width] = scaled
    return square


def zoom_in(config: OperationsConfig) -> Operation:
    """The ZOOM_IN operation with its output size, fit, padding and smallest crop taken from the section."""

    def run(arguments: ZoomInArguments, frames: Sequence[np.ndarray]) -> OperationResult:
        frame = frames[arguments.frame]
        height, width = frame.shape[:2]
        padding = config.zoom_padding if arguments.padding is None else arguments.padding
        x0, y0, x1, y1 = box = to_pixels(padded(arguments.region(), padding), width, height)
        if min(x1 - x0, y1 - y0) <= config.zoom_min_side:
            raise OperationFault(
                "crop_too_small",
                f"the crop is {x1 - x0}x{y1 - y0} px of a {width}x{height} frame.",
                f"a box with both sides over {config.zoom_min_side} px",
            )
        crop = frame[y0:y1, x0:x1]
        if config.zoom_size is not None:
            image = fit_square(crop, config.zoom_size, config.zoom_fit)
        elif (x1 - x0) * (y1 - y0) > config.max_image_pixels:
            raise OperationFault(
                "too_large", f"the crop is {x1 - x0}x{y1 - y0} px.", f"at most {config.max_image_pixels} pixels"
            )
        else:
            image = crop.copy()
        return OperationResult(
            True,
            f"frame {arguments.frame}, {x1 - x0}x{y1 - y0} px",
            image=image,
            data={"frame": arguments.frame, "box": list(to_thousandths(box, width, height)), "pixels": list(box)},
            drawings=(Drawing(arguments.frame, box, label="ZOOM_IN"),),
        )

    return Operation(
        "ZOOM_IN",
        "Look closer: the region of a frame, cropped from the source at full resolution.",
        ZoomInArguments,
        run,
        example={"frame": 8, "box": [250, 0, 500, 250]},
        frames_used=only_frame,
        cacheable=False,
        isolate=False,
    )

"""GET_PROPERTIES: size, position, colours, shape, orientation, texture and sharpness of a region, measured from pixels.

The region is a box, or a mask as SEGMENT_OBJECT_AT returns it. Nothing is guessed: every word in the answer is a
threshold on a measured number that stands beside it in `data`.

    size         share of the frame; width and height in thousandths
    position     centre in thousandths, and its third of the frame in words
    colours      basic colour terms with their share of the region (colours.py)
    shape        of a mask: round, rectangular, elongated or irregular, from circularity and minimum-area rectangle
    orientation  angle of the long axis, degrees counter-clockwise from horizontal in (-90, 90], None for round things
    texture      smooth, textured, or striped with the stripes' direction, from the structure tensor
    sharpness    variance of the Laplacian over the grey variance, so that contrast alone does not make it sharp
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import cv2
import numpy as np
from pydantic import Field, model_validator

from components.shared.operations.arguments import Arguments, BoxThousandths, FrameIndex
from components.shared.operations.colours import dominant_colours
from components.shared.operations.config import OperationsConfig
from components.shared.operations.frames import to_pixels, to_thousandths
from components.shared.operations.masks import MaskRle, decode_mask, mask_box
from components.shared.operations.operation import Operation, only_frame
from components.shared.operations.result import Drawing, OperationFault, OperationResult

MAX_PIXELS = 250_000
"""Larger regions are measured on an evenly thinned grid of about this many pixels."""


class GetPropertiesArguments(Arguments):
    """Which region of which frame."""

    frame: FrameIndex
    box: BoxThousandths | None = None
    mask: MaskRle | None = Field(None, description="A mask as SEGMENT_OBJECT_AT returns it, instead of a box.")

    @model_validator(mode="after")
    def _one_region(self) -> Self:
        if (self.box is None) == (self.mask is None):
            raise ValueError("give either a box or a mask")
        return self


def measure(image: np.ndarray, mask: np.ndarray | None) -> dict[str, Any]:
    """Properties of a cropped region.

    Args:
        image: uint8 RGB (height, width, 3).
        mask: bool (height, width) where only a part counts, None for all of it.
    """
    core = None if mask is None else inner(mask)
    inside = image.reshape(-1, 3) if core is None else image[core]
    found: dict[str, Any] = {
        "colours": [[name, share] for name, share in dominant_colours(inside[:: max(len(inside) // MAX_PIXELS, 1)])],
        "mean_rgb": [round(float(v)) for v in inside.mean(axis=0)],
    }
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(np.float32)
    found |= texture(grey, core)
    if mask is not None:
        found |= shape(mask)
    return found


def inner(mask: np.ndarray) -> np.ndarray:
    """The mask without its rim of two pixels, where video coding mixes colours; all of it where little would remain."""
    eroded = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0) > 0
    return eroded if eroded.sum() > 24 else mask


def texture(grey: np.ndarray, mask: np.ndarray | None) -> dict[str, Any]:
    """Texture and sharpness of float32 grey levels inside a mask.

    `coherence` is (l1 - l2) / (l1 + l2) of the mean structure tensor's eigenvalues: 1 for parallel stripes, 0 for none.
    """
    gx = cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=3, borderType=cv2.BORDER_REPLICATE) / 8
    gy = cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=3, borderType=cv2.BORDER_REPLICATE) / 8
    laplacian = cv2.Laplacian(grey, cv2.CV_32F, borderType=cv2.BORDER_REPLICATE)
    pick = slice(None) if mask is None else mask
    xx, yy, xy = (float(np.mean(v[pick])) for v in (gx * gx, gy * gy, gx * gy))
    energy = float(np.sqrt(xx + yy))
    coherence = float(np.hypot(xx - yy, 2 * xy)) / (xx + yy) if xx + yy > 0 else 0.0
    across = np.degrees(0.5 * np.arctan2(2 * xy, xx - yy))  # direction of strongest change, image axes
    along = float(wrap(90 - across))
    variance = float(np.var(grey[pick]))
    sharpness = float(np.var(laplacian[pick])) / variance if variance > 4 else 0.0
    kind = "smooth" if energy < 3 else "striped" if coherence > 0.6 else "textured"
    return {
        "texture": kind,
        "stripes_degrees": round(along, 1) if kind == "striped" else None,
        "gradient": round(energy, 2),
        "coherence": round(coherence, 3),
        "sharpness": round(sharpness, 4),
        "contrast": round(variance**0.5, 2),
    }


def shape(mask: np.ndarray) -> dict[str, Any]:
    """Shape and orientation of a bool mask that is not empty."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contour = max(contours, key=cv2.contourArea)
    area = float(mask.sum())
    perimeter = max(cv2.arcLength(contour, True), 1.0)
    circularity = min(4 * np.pi * area / perimeter**2, 1.0)
    (_, (side_a, side_b), _) = cv2.minAreaRect(contour)
    long_side, short_side = max(side_a, side_b) + 1, min(side_a, side_b) + 1
    rectangularity = min(area / (long_side * short_side), 1.0)
    y, x = np.nonzero(mask)
    covariance = np.cov(np.stack([x, y]).astype(np.float64)) if len(x) > 2 else np.eye(2)
    values, vectors = np.linalg.eigh(covariance)
    elongation = float(np.sqrt(max(values[1], 1e-9) / max(values[0], 1e-9)))
    angle = float(wrap(-np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))))
    if elongation > 2.5:
        word = "elongated"
    elif rectangularity > 0.88:
        word = "rectangular"
    elif circularity > 0.75:
        word = "round"
    else:
        word = "irregular"
    return {
        "shape": word,
        "orientation_degrees": round(angle, 1) if elongation > 1.15 else None,
        "elongation": round(elongation, 2),
        "circularity": round(float(circularity), 3),
        "rectangularity": round(float(rectangularity), 3),
    }


def wrap(degrees: float) -> float:
    """An axis' angle in (-90, 90]."""
    wrapped = (degrees + 90) % 180 - 90
    return 90.0 if wrapped == -90 else wrapped


def place_words(x: float, y: float) -> str:
    """Which third of the frame a point in thousandths lies in."""
    row = ("top", "middle", "bottom")[min(int(y * 3 / 1000), 2)]
    column = ("left", "centre", "right")[min(int(x * 3 / 1000), 2)]
    return "centre" if (row, column) == ("middle", "centre") else f"{row} {column}"


def get_properties(config: OperationsConfig) -> Operation:
    """The GET_PROPERTIES operation."""

    def run(arguments: GetPropertiesArguments, frames: Sequence[np.ndarray]) -> OperationResult:
        frame = frames[arguments.frame]
        height, width = frame.shape[:2]
        mask = None
        if arguments.mask is not None:
            mask = decode_mask(arguments.mask, height, width)
            if not mask.any():
                raise OperationFault("invalid_arguments", "the mask is empty.", "a mask with at least one pixel")
            box = mask_box(mask)
        else:
            assert arguments.box is not None
            box = to_pixels(arguments.box, width, height)
        x0, y0, x1, y1 = box
        cropped = None if mask is None else mask[y0:y1, x0:x1]
        area = int(mask.sum()) if mask is not None else (x1 - x0) * (y1 - y0)
        centre = [round((x0 + x1) / 2 / width * 1000), round((y0 + y1) / 2 / height * 1000)]
        data = {
            "box": list(to_thousandths(box, width, height)),
            "size": {
                "share": round(area / (height * width), 4),
                "pixels": area,
                "width": round((x1 - x0) * 1000 / width),
                "height": round((y1 - y0) * 1000 / height),
            },
            "centre": centre,
            "position": place_words(*centre),
            **measure(frame[y0:y1, x0:x1], cropped),
        }
        drawing = Drawing(arguments.frame, box, mask, data["colours"][0][0])
        return OperationResult(True, sentence(data), data=data, drawings=(drawing,))

    return Operation(
        "GET_PROPERTIES",
        "Measure a region: size, position, colours, shape, orientation, texture and sharpness.",
        GetPropertiesArguments,
        run,
        version="2",
        example={"frame": 8, "box": [250, 0, 500, 250]},
        frames_used=only_frame,
    )


def sentence(data: dict[str, Any]) -> str:
    """The measurements in one line for the policy."""
    colours = ", ".join(f"{name} {share:.0%}" for name, share in data["colours"])
    parts = [colours, f"{data['size']['share']:.1%} of the frame", data["position"], data["texture"]]
    if data.get("stripes_degrees") is not None:
        parts[-1] += f" at {data['stripes_degrees']:.0f} degrees"
    if "shape" in data:
        parts.append(data["shape"])
        if data["orientation_degrees"] is not None:
            parts.append(f"long axis at {data['orientation_degrees']:.0f} degrees")
    return "; ".join(parts)

"""Masks as text: run lengths that JSON, a policy's call and a report can carry.

The form is COCO's uncompressed one, but by rows: {"size": [height, width], "counts": [zeros, ones, zeros, ...]}.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from components.shared.operations.result import OperationFault


class MaskRle(BaseModel):
    """A mask in run lengths."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: tuple[Annotated[int, Field(ge=1, le=100_000)], Annotated[int, Field(ge=1, le=100_000)]]
    counts: tuple[Annotated[int, Field(ge=0, le=2**33)], ...] = Field(max_length=200_000)


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths of a bool mask (height, width), starting with the zeros."""
    flat = mask.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    counts = np.diff(edges).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat.size and flat[0] else counts}


def decode_mask(rle: MaskRle, height: int, width: int) -> np.ndarray:
    """The bool mask (height, width).

    Raises:
        OperationFault: it is of another size than the frame, or its runs do not fill it.
    """
    if rle.size != (height, width):
        raise OperationFault(
            "invalid_arguments", f"the mask is for {rle.size[1]}x{rle.size[0]} px.", f"a mask of {width}x{height} px"
        )
    if sum(rle.counts) != height * width:
        raise OperationFault(
            "invalid_arguments", f"the mask's runs cover {sum(rle.counts)} px.", f"runs that cover {height * width} px"
        )
    values = np.arange(len(rle.counts)) % 2 == 1
    return np.repeat(values, np.array(rle.counts, np.int64)).reshape(height, width)


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Pixel box (x0, y0, x1, y1) of a mask that is not empty, end exclusive."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

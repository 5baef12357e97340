"""Argument types that operations share: frame index, box and point in thousandths of the source frame."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Coordinate = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
FrameIndex = Annotated[int, Field(ge=0, le=1_000_000, description="Index of the frame, 0 is the first.")]


def _ordered(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"box {[x0, y0, x1, y1]} is empty or inverted; x0 < x1 and y0 < y1 are needed")
    return box


BoxThousandths = Annotated[
    tuple[Coordinate, Coordinate, Coordinate, Coordinate],
    AfterValidator(_ordered),
    Field(description="[x0, y0, x1, y1] in thousandths of the source frame's width and height."),
]
Point = Annotated[
    tuple[Coordinate, Coordinate],
    Field(description="[x, y] in thousandths of the source frame's width and height."),
]


class Arguments(BaseModel):
    """Base of every operation's typed arguments: no unknown keys, numbers are numbers, NaN is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

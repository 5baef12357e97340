"""TRACK_OBJECT: follow a box from one frame to another, forwards or backwards.

Backend `classical` is a correlation filter beside a colour model (tracking.py). Backend `sam2` is SAM 2's video model
through transformers (sam2_tracking.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from components.shared.operations import sam2
from components.shared.operations.arguments import Arguments, BoxThousandths, FrameIndex
from components.shared.operations.config import OperationsConfig
from components.shared.operations.frames import to_pixels, to_thousandths
from components.shared.operations.operation import Operation
from components.shared.operations.result import Drawing, OperationFault, OperationResult
from components.shared.operations.sam2_tracking import Sam2Tracker
from components.shared.operations.tracking import CorrelationTracker, FloatBox

MAX_FRAMES = 1000
"""Frames one call may follow."""
MIN_SIDE = 6
"""Smallest target side in pixels."""


class TrackArguments(Arguments):
    """Where the target is, and how far to follow it."""

    frame: FrameIndex
    box: BoxThousandths
    to: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        None, description="Index of the last frame to follow to; before `frame` follows backwards; else the last frame."
    )


def path(arguments: TrackArguments, num_frames: int) -> list[int]:
    """Indices of the frames after the first, in the order they are followed."""
    end = num_frames - 1 if arguments.to is None else arguments.to
    step = 1 if end >= arguments.frame else -1
    return list(range(arguments.frame + step, end + step, step)) if end != arguments.frame else []


def track_object(config: OperationsConfig) -> Operation:
    """The TRACK_OBJECT operation."""

    def start(frame: np.ndarray, box: FloatBox) -> CorrelationTracker | Sam2Tracker:
        if config.track_backend == "sam2":
            return Sam2Tracker(frame, box, sam2.configured_model(config, "Sam2VideoModel"))
        return CorrelationTracker(frame, box)

    def run(arguments: TrackArguments, frames: Sequence[np.ndarray]) -> OperationResult:
        first = frames[arguments.frame]
        end = len(frames) - 1 if arguments.to is None else arguments.to
        frames[end]  # a missing last frame is said before any work
        indices = path(arguments, len(frames))
        if len(indices) > MAX_FRAMES:
            raise OperationFault("too_large", f"{len(indices)} frames to follow.", f"at most {MAX_FRAMES} frames")
        height, width = first.shape[:2]
        box = to_pixels(arguments.box, width, height)
        if min(box[2] - box[0], box[3] - box[1]) < MIN_SIDE:
            raise OperationFault(
                "crop_too_small", "the target is too small to follow.", f"{MIN_SIDE} px or more a side"
            )
        tracker = start(first, box)
        entries = [{"frame": arguments.frame, "box": list(to_thousandths(box, width, height)), "confidence": 1.0}]
        drawings = [Drawing(arguments.frame, box, label="start")]
        lost_at: int | None = None
        for index in indices:
            frame = frames[index]
            if frame.shape != first.shape:
                raise OperationFault("invalid_frames", f"frame {index} is of another size.", "frames of equal size")
            found = tracker.update(frame)
            inside = clipped(found.box, width, height)
            entry = {"frame": index, "box": list(to_thousandths(inside, width, height)), "confidence": found.confidence}
            entries.append(entry)
            drawings.append(Drawing(index, inside, label="lost" if found.lost else f"{found.confidence:.2f}"))
            lost_at = (lost_at if lost_at is not None else index) if found.lost else None
        data = {"boxes": entries, "lost": lost_at is not None, "lost_at": lost_at}
        last = entries[-1]
        where = f"lost from frame {lost_at}" if lost_at is not None else f"in frame {last['frame']} at {last['box']}"
        return OperationResult(
            True, f"followed over {len(indices)} frames; {where}", data=data, drawings=tuple(drawings)
        )

    def used(arguments: TrackArguments, num_frames: int) -> Iterable[int]:
        return [arguments.frame, *path(arguments, num_frames)[:MAX_FRAMES]]

    return Operation(
        "TRACK_OBJECT",
        "Follow the object in a box through the frames.",
        TrackArguments,
        run,
        example={"frame": 0, "box": [400, 300, 600, 500], "to": 15},
        version=f"2 {config.track_backend} {config.sam2_model} {config.sam2_revision}",
        frames_used=used,
        prepare=(lambda: sam2.configured_model(config, "Sam2VideoModel")) if config.track_backend == "sam2" else None,
    )


def clipped(box: tuple[float, float, float, float], width: int, height: int) -> tuple[int, int, int, int]:
    """A box in whole pixels inside the frame, at least one pixel."""
    x0, y0 = min(max(round(box[0]), 0), width - 1), min(max(round(box[1]), 0), height - 1)
    return x0, y0, min(max(round(box[2]), x0 + 1), width), min(max(round(box[3]), y0 + 1), height)

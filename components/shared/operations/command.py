"""What `pixelis operations list` and `pixelis operations run` do; the command line only prints what these return."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.shared.operations.config import OperationsConfig
from components.shared.operations.discovery import default_registry
from components.shared.operations.registry import Registry
from components.shared.operations.result import OperationResult
from components.shared.runtime.errors import InputError

MAX_VIDEO_FRAMES = 512


@dataclass(frozen=True)
class OperationRow:
    """One line of the list: name, description, a right call's arguments, where it comes from."""

    name: str
    description: str
    example: str
    source: str


def list_rows(registry: Registry | None = None) -> list[OperationRow]:
    """Every operation of this machine, by name."""
    found = registry or default_registry(OperationsConfig())
    rows = []
    for name in found.names():
        item = found.get(name)
        source = (item.run.__module__ or "").split(".")[0]
        kind = "built in" if source == "components" else f"plugin {source}"
        rows.append(OperationRow(name, item.description, json.dumps(item.example), kind))
    return rows


def schemas_json(registry: Registry | None = None) -> str:
    """The JSON schemas of all operations, indented."""
    return json.dumps((registry or default_registry(OperationsConfig())).list_operations(), indent=2)


def load_frames(paths: Sequence[Path]) -> list[np.ndarray]:
    """Frames from pictures and videos, in the order given; uint8 RGB.

    Raises:
        InputError: a path is missing, or nothing can be decoded from it.
    """
    import cv2

    frames: list[np.ndarray] = []
    for path in paths:
        if not path.is_file():
            raise InputError(
                f"{path} does not exist, so no operation can look at it.", remedy="Give a picture or video."
            )
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is not None:
            frames.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            continue
        capture = cv2.VideoCapture(str(path))
        before = len(frames)
        while len(frames) - before < MAX_VIDEO_FRAMES:
            good, frame = capture.read()
            if not good:
                break
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        capture.release()
        if len(frames) == before:
            raise InputError(f"{path} holds no picture that can be decoded.", remedy="Give a picture or video.")
    return frames


def run_operation(
    name: str,
    images: Sequence[Path],
    arguments: str,
    output: Path | None = None,
    config: OperationsConfig | None = None,
) -> OperationResult:
    """Try one operation on pictures or a video and save the drawing.

    Args:
        name: Operation.
        images: Pictures or videos; frame indices count through all of them.
        arguments: JSON object; `frame` may be left out and is then 0.
        output: Where the drawing goes (PNG or JPEG by suffix), None for no drawing.
        config: Settings; the general ones (padding 0.1, crops as they are) by default.

    Returns:
        The result; a failed one carries the error the policy would see.

    Raises:
        InputError: a picture cannot be read, or the drawing cannot be written.
    """
    frames = load_frames(images)
    filled: object = arguments
    try:
        parsed = json.loads(arguments)
        filled = {"frame": 0, **parsed} if isinstance(parsed, dict) else parsed
    except ValueError:
        pass  # the registry answers broken JSON with its own error
    result = default_registry(config or OperationsConfig()).execute(name, filled, frames)
    if output is not None and result.ok:
        save_drawing(frames, result, output)
    return result


def save_drawing(frames: Sequence[np.ndarray], result: OperationResult, output: Path) -> None:
    """Write the picture of a result."""
    import cv2

    from components.shared.operations.drawing import draw_result

    picture = cv2.cvtColor(draw_result(frames, result), cv2.COLOR_RGB2BGR)
    try:
        good, encoded = cv2.imencode(output.suffix or ".png", picture)
    except cv2.error:
        good = False
    if not good:
        raise InputError(f"{output} has no picture suffix that can be written.", remedy="End it with .png or .jpg.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(encoded.tobytes())
    except OSError as error:
        raise InputError(f"{output} cannot be written ({error.strerror}).", remedy="Give another --output.") from error

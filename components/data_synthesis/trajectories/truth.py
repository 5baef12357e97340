"""What synthesis may know about a rendered scene; the form is the twin's `<truth>/<recording_id>.json`.

Only this step and tests open it. A recording without a truth file (all real data) has none, and no close-up questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data_synthesis.trajectories.evidence import BoxInt, cell_box, cell_of
from components.shared.runtime.artifacts import read_json
from components.shared.runtime.errors import ArtifactError
from components.shared.samples.clip import ClipMeta


@dataclass(frozen=True)
class TagSight:
    """The one tag of a clip.

    Attributes:
        value: What a close look tells.
        choices: All values it could have.
        box: The tag in thousandths of the frame.
        frames: Indices of the clip's frames that show it.
    """

    value: str
    choices: tuple[str, ...]
    box: tuple[float, float, float, float]
    frames: tuple[int, ...]


class RecordingTruth:
    """The ground truth of one recording."""

    def __init__(self, path: Path) -> None:
        value: dict[str, Any] = read_json(path)
        try:
            self.width, self.height, self.fps = int(value["width"]), int(value["height"]), float(value["fps"])
            self.choices = tuple(str(item) for item in value["tag_values"])
            self._orders = [
                (float(o["start_s"]), float(o["end_s"]), str(o["tag"]["value"]), tuple(o["tag"]["box"]))
                for o in value["orders"]
            ]
            self._objects = {name: item["boxes"] for name, item in value["objects"].items()}
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{path} is no scene truth ({type(error).__name__}: {error}).", remedy="Run the recordings step again."
            ) from error

    def tag(self, meta: ClipMeta) -> tuple[TagSight | None, str]:
        """The tag a clip shows, or None and the reason: no tag in sight, or two tags with different values."""
        seen: dict[int, list[int]] = {}
        for index, time in enumerate(meta.frame_times_s):
            for number, (start, end, _, _) in enumerate(self._orders):
                if start <= meta.start_s + time < end:
                    seen.setdefault(number, []).append(index)
        if not seen:
            return None, "no tag in sight"
        if len(seen) > 1:
            return None, "two tags in the window"
        number, frames = seen.popitem()
        _, _, value, (x0, y0, x1, y1) = self._orders[number]
        box = (x0 * 1000 / self.width, y0 * 1000 / self.height, x1 * 1000 / self.width, y1 * 1000 / self.height)
        return TagSight(value, self.choices, box, tuple(frames)), ""

    def objects_at(self, time_s: float) -> dict[str, BoxInt]:
        """Boxes in thousandths of the objects in the picture at a time of the recording."""
        boxes = {}
        for name, series in self._objects.items():
            index = min(max(round(time_s * self.fps), 0), len(series) - 1)
            if series and (box := series[index]) is not None:
                x0, y0, x1, y1 = box
                boxes[name] = (
                    round(x0 * 1000 / self.width),
                    round(y0 * 1000 / self.height),
                    round(x1 * 1000 / self.width),
                    round(y1 * 1000 / self.height),
                )
        return boxes


def open_truth(folder: Path, recording_id: str) -> RecordingTruth | None:
    """The truth of a recording, None where there is none."""
    path = folder / f"{recording_id}.json"
    return RecordingTruth(path) if path.is_file() else None


def cell_of_tag(sight: TagSight, grid: int) -> tuple[int, int] | None:
    """(column, row) of the grid cell that holds the tag whole."""
    return cell_of(sight.box, grid)


def outer_box(box: tuple[float, float, float, float], cell: tuple[int, int], grid: int) -> BoxInt:
    """A box in whole thousandths, rounded outwards but not beyond its cell."""
    left, top, right, bottom = cell_box(*cell, grid)
    return (
        max(int(box[0]), left),
        max(int(box[1]), top),
        min(-int(-box[2] // 1), right),
        min(-int(-box[3] // 1), bottom),
    )

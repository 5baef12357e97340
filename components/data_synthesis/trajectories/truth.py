"""What synthesis may know about a rendered scene; the form is the twin's `<truth>/<recording_id>.json`.

Only this step and tests open it. A recording without a truth file (all real data) has none, and no close-up questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.data_synthesis.trajectories.config import Detail
from components.data_synthesis.trajectories.evidence import BoxInt, around, cell_box, cell_of, overlaps
from components.data_synthesis.trajectories.questions import CLOSEUP_TEXT
from components.shared.runtime.artifacts import read_json
from components.shared.runtime.errors import ArtifactError
from components.shared.samples.clip import ClipMeta

SPACE = 90.0
"""Side of the box around a label or tool, thousandths: what a close look needs around it."""
LETTERS, NUMBERS = "ABCDEFGH", range(10, 100)
"""What shelf labels are made of."""
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
TOOLS = ("pen", "scanner", "tape")
CLEAR = 40.0
"""By how much, in thousandths, the lowest tool must be lower than the next."""


@dataclass(frozen=True)
class Sight:
    """A detail that a clip shows and only a close look tells.

    Attributes:
        detail: `tag`, `label` or `tool`.
        text: The question, without the place.
        value: Its answer.
        choices: All values the answer could have.
        box: The detail in thousandths of the frame.
        frames: Indices of the clip's frames that show it.
    """

    detail: Detail
    text: str
    value: str
    choices: tuple[str, ...]
    box: tuple[float, float, float, float]
    frames: tuple[int, ...]

    def place(self, grid: int) -> BoxInt | None:
        """Where to look: the grid cell that holds a tag whole (None where none does), else a box around the detail."""
        if self.detail != "tag":
            return around(self.box, SPACE)
        cell = cell_of(self.box, grid)
        return cell_box(*cell, grid) if cell is not None else None

    def asked(self, grid: int) -> str:
        """The question; about a tag it names the row and column of the grid cell that holds it."""
        cell = cell_of(self.box, grid) if self.detail == "tag" else None
        return self.text if cell is None else self.text.format(row=cell[1] + 1, column=cell[0] + 1)

    def evidence_box(self, grid: int) -> BoxInt | None:
        """The detail in whole thousandths, rounded outwards but not beyond its place."""
        place = self.place(grid)
        if place is None:
            return None
        return (
            max(int(self.box[0]), place[0]),
            max(int(self.box[1]), place[1]),
            min(-int(-self.box[2] // 1), place[2]),
            min(-int(-self.box[3] // 1), place[3]),
        )


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
            self._labels = [
                (number, str(label["text"]), tuple(label["box"]))
                for number, label in enumerate(value["labels"])
                if label["box"] is not None
            ]
            self._objects = {name: item["boxes"] for name, item in value["objects"].items()}
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{path} is no scene truth ({type(error).__name__}: {error}).", remedy="Run the recordings step again."
            ) from error

    def sight(self, detail: Detail, meta: ClipMeta, rng: np.random.Generator) -> tuple[Sight | None, str]:
        """A detail that a clip shows, or None and the reason why there is none to ask about."""
        if detail == "label":
            return self._label(meta, rng)
        return self._tool(meta, rng) if detail == "tool" else self._tag(meta)

    def _tag(self, meta: ClipMeta) -> tuple[Sight | None, str]:
        """The order's tag: no question where two orders' tags are in the window."""
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
        _, _, value, box = self._orders[number]
        return Sight("tag", CLOSEUP_TEXT, value, self.choices, self._thousandths(box), tuple(frames)), ""

    def _label(self, meta: ClipMeta, rng: np.random.Generator) -> tuple[Sight | None, str]:
        """The text of one shelf label, in the frames in which nothing covers it; other texts are made up as choices."""
        if not self._labels:
            return None, "no label in sight"
        number, text, box = self._labels[int(rng.integers(len(self._labels)))]
        place = self._thousandths(box)
        free = tuple(
            index for index, time in enumerate(meta.frame_times_s) if not self._covered(place, meta.start_s + time)
        )
        if not free:
            return None, "label covered"
        others = {text}
        while len(others) < 4:
            others.add(f"{LETTERS[int(rng.integers(len(LETTERS)))]}{int(rng.integers(NUMBERS.start, NUMBERS.stop))}")
        asked = f"What is written on the {ORDINALS[number]} shelf label from the left?"
        return Sight("label", asked, text, tuple(sorted(others)), place, free), ""

    def _tool(self, meta: ClipMeta, rng: np.random.Generator) -> tuple[Sight | None, str]:
        """Which of the tools is lowest in one frame, where one clearly is."""
        index = int(rng.integers(len(meta.frame_times_s)))
        boxes = self.objects_at(meta.start_s + meta.frame_times_s[index])
        found = sorted(((boxes[name][3], name) for name in TOOLS if name in boxes), reverse=True)
        if len(found) < len(TOOLS) or found[0][0] - found[1][0] < CLEAR:
            return None, "no tool is clearly the lowest"
        name = found[0][1]
        asked = f"Which tool is lowest in the picture at {meta.frame_times_s[index]:.1f} s?"
        return Sight("tool", asked, name, TOOLS, boxes[name], (index,)), ""

    def _covered(self, place: Sequence[float], time_s: float) -> bool:
        """Whether an object or an order's tag lies over a place in thousandths."""
        tags = (self._thousandths(box) for start, end, _, box in self._orders if start <= time_s < end)
        return any(overlaps(place, box) for box in (*self.objects_at(time_s).values(), *tags))

    def _thousandths(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        x0, y0, x1, y1 = box
        return x0 * 1000 / self.width, y0 * 1000 / self.height, x1 * 1000 / self.width, y1 * 1000 / self.height

    def objects_at(self, time_s: float) -> dict[str, BoxInt]:
        """Boxes in thousandths of the objects in the picture at a time of the recording."""
        boxes = {}
        for name, series in self._objects.items():
            index = min(max(round(time_s * self.fps), 0), len(series) - 1)
            if series and (box := series[index]) is not None:
                left, top, right, bottom = (round(value) for value in self._thousandths(box))
                boxes[name] = (left, top, right, bottom)
        return boxes


def open_truth(folder: Path, recording_id: str) -> RecordingTruth | None:
    """The truth of a recording, None where there is none."""
    path = folder / f"{recording_id}.json"
    return RecordingTruth(path) if path.is_file() else None

"""The reigning champion's answers about the same windows, out of its own evaluation artifact.

A window is the same only where clip id, the pixels seen and the truth are. Anything else is no comparison, and is said.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.evaluation.windows import Window
from components.shared.learning.metrics import UNPARSED, Answer
from components.shared.runtime.artifacts import read_json
from components.shared.runtime.errors import ArtifactError

PREDICTIONS, GATE = "predictions.jsonl", "gate.json"


@dataclass(frozen=True)
class Champion:
    """The champion's answers.

    Attributes:
        name: Which policy of its run it was.
        answers: One a window, None where it never saw the window.
    """

    name: str
    answers: list[Answer | None]

    @property
    def num_shared(self) -> int:
        """Windows both have answered."""
        return sum(answer is not None for answer in self.answers)


def as_json(answer: Answer) -> dict[str, Any] | None:
    """An answer as it stands in predictions.jsonl."""
    if not answer.valid or answer.segment_s is None:
        return None
    start, end = answer.segment_s
    return {"operation": answer.operation, "start_s": start, "end_s": end, "next_operation": answer.next_operation}


def from_json(value: dict[str, Any] | None) -> Answer:
    """Back from `as_json`."""
    if value is None:
        return UNPARSED
    return Answer(value["operation"], (value["start_s"], value["end_s"]), value["next_operation"])


def read_champion(folder: Path | None, windows: Sequence[Window]) -> Champion | None:
    """The champion's answers about these windows, None where there is no champion.

    Raises:
        ArtifactError: the folder is no evaluation artifact.
    """
    if folder is None:
        return None
    name = read_json(folder / GATE)["candidate"]
    path = folder / PREDICTIONS
    if not path.is_file():
        raise ArtifactError(
            f"{path} is missing, so the champion's answers are unknown.", remedy="Point at its evaluation artifact."
        )
    known: dict[tuple[str, str], dict[str, Any]] = {}
    with open(path) as lines:
        for line in lines:
            row = json.loads(line)
            known[(row["clip_id"], row["pixels"])] = row
    answers: list[Answer | None] = []
    for window in windows:
        row = known.get((window.meta.clip_id, window.pixels), {})
        same = bool(row) and row["truth"] == as_json(window.truth) and name in row["predictions"]
        answers.append(from_json(row["predictions"][name]["answer"]) if same else None)
    return Champion(name, answers)

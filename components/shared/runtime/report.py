"""What a step's verb returns: figures, curves, text and pictures, all measured in that step."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from components.shared.runtime.artifacts import read_json, write_json

Provenance = Literal["synthetic", "real"]


@dataclass
class Report:
    """The outcome of one step.

    Attributes:
        metrics: Scalars by name, units in the name (`loss`, `seconds`, `num_clips`).
        provenance: `real` only when every recording behind the outputs is real.
        curves: Series by name, each a list of (step, value).
        markdown: A short text for people, shown in the Kubeflow UI and in the run's summary.
        pictures: PNG files inside one of the step's outputs, by caption.
        confusion: (labels, matrix) with matrix[truth][prediction] counts, for ClassificationMetrics.
        facts: Small JSON values that lineage and the summary keep (dataset digests, gate reasons).
    """

    metrics: dict[str, float] = field(default_factory=dict)
    provenance: Provenance = "synthetic"
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    markdown: str = ""
    pictures: dict[str, Path] = field(default_factory=dict)
    confusion: tuple[list[str], list[list[int]]] | None = None
    facts: dict[str, object] = field(default_factory=dict)


def write_report(report: Report, path: Path) -> None:
    """Write a report as JSON, for the process that started this one."""
    write_json(path, asdict(report) | {"pictures": {name: str(file) for name, file in report.pictures.items()}})


def read_report(path: Path) -> Report:
    """Inverse of `write_report`.

    Raises:
        ArtifactError: the file is missing or not JSON.
    """
    value = read_json(path)
    value["pictures"] = {name: Path(file) for name, file in value["pictures"].items()}
    value["curves"] = {name: [(float(x), float(y)) for x, y in points] for name, points in value["curves"].items()}
    if value["confusion"]:
        labels, matrix = value["confusion"]
        value["confusion"] = (list(labels), matrix)
    return Report(**value)

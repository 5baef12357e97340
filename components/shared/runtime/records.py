"""What is known about a step's execution, and where a run keeps it.

A step record is written twice: as `steps/<step>.json` in the run's directory while and after the step runs (state of
this run), and inside `artifact.json` of every artifact it made (state of the artifact, which outlives the run and is
how a cached step is traced to the run that made it).
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from components.shared.runtime.artifacts import RECORD, read_json, write_json
from components.shared.runtime.errors import ArtifactError


@dataclass
class ArtifactRecord:
    """One input or output: where it is and what its bytes were."""

    uri: str
    sha256: str
    provenance: str
    run_id: str = ""
    step: str = ""


@dataclass
class StepRecord:
    """One execution of one step. `status` is RUNNING until the step ends; a killed step stays RUNNING."""

    step: str
    run_id: str
    status: str = "RUNNING"
    started: float = 0.0
    seconds: float = 0.0
    peak_rss_bytes: int = 0
    pid: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    config_digest: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    markdown: str = ""
    pictures: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, list[ArtifactRecord]] = field(default_factory=dict)
    outputs: dict[str, ArtifactRecord] = field(default_factory=dict)
    error: str = ""
    remedy: str = ""
    expected: bool = False
    """Whether the error is one that says all there is to know; otherwise the log is worth reading."""
    mlflow_run_id: str = ""
    tracking_error: str = ""


def run_directory() -> Path | None:
    """The local run's directory (PIXELIS_RUN_DIR), None on a cluster."""
    value = os.environ.get("PIXELIS_RUN_DIR")
    return Path(value) if value else None


def run_id() -> str:
    """The pipeline run's id: set by the command line locally, from the pod's fields on the cluster."""
    return os.environ.get("PIXELIS_RUN_ID") or "unnamed"


def save_record(record: StepRecord) -> None:
    """Write the record into the run's directory, where there is one."""
    directory = run_directory()
    if directory:
        write_json(directory / "steps" / f"{record.step}.json", asdict(record))


def load_record(value: dict[str, Any]) -> StepRecord:
    """A record from its JSON form."""
    value = dict(value)
    value["inputs"] = {name: [ArtifactRecord(**item) for item in items] for name, items in value["inputs"].items()}
    value["outputs"] = {name: ArtifactRecord(**item) for name, item in value["outputs"].items()}
    return StepRecord(**value)


def load_records(directory: Path) -> dict[str, StepRecord]:
    """All records of a run by step name."""
    return {path.stem: load_record(read_json(path)) for path in sorted((directory / "steps").glob("*.json"))}


def write_artifact_record(artifact: Path, record: StepRecord, output: str) -> None:
    """Put the record into the artifact itself, with the size of every file, so that damage is noticed."""
    files = {p.relative_to(artifact).as_posix(): p.stat().st_size for p in sorted(artifact.rglob("*")) if p.is_file()}
    files.pop(RECORD, None)
    write_json(artifact / RECORD, {"output": output, "files": files, "made_by": asdict(record)})


def read_artifact_record(artifact: Path) -> tuple[ArtifactRecord, StepRecord]:
    """Read an artifact's record and check that every file is there with its size.

    Raises:
        ArtifactError: no record (the step that made it did not finish), one of another version of the code, or a file
            missing or of another size.
    """
    value = read_json(artifact / RECORD)
    try:
        record, files = load_record(value["made_by"]), value["files"]
        made = record.outputs[value["output"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{artifact / RECORD} is not a record as this version writes it ({type(error).__name__}: {error}), so "
            "nobody can say what the artifact is.",
            remedy="Delete the folder and run its step again.",
        ) from error
    for name, size in files.items():
        path = artifact / name
        if not path.is_file() or path.stat().st_size != size:
            state = f"{path.stat().st_size} bytes instead of {size}" if path.is_file() else "missing"
            raise ArtifactError(
                f"{artifact}: {name} is {state}, so the artifact is not what step {record.step} wrote.",
                remedy=f"Delete the folder and run again: step {record.step} will be repeated.",
            )
    return made, record

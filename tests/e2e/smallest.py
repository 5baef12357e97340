"""The pipeline at its smallest size: settings, and what the tests that run it share."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

SMALLEST = {
    "recordings.twin.num_train_people": 14,
    "recordings.twin.num_validation_people": 2,
    "recordings.twin.num_test_people": 3,
    "recordings.twin.train_session_s": 10.0,
    "recordings.twin.validation_session_s": 10.0,
    "recordings.twin.test_session_s": 12.0,
    "clips.max_clips": 120,
    "clips.report_recordings": 4,
    "base_model.vision.steps": 20,
    "base_model.language.steps": 20,
    "base_model.num_validation": 16,
    "alignment.frame_steps": 8,
    "alignment.clip_steps": 8,
    "alignment.sound_steps": 8,
    "sft.steps": 24,
    "sft.checkpoint_every": 2,
    "sft.num_validation": 8,
    "sft.num_asked": 16,
    "rft.steps": 2,
    "rft.num_groups": 2,
    "rft.num_validation": 8,
}


def pixelis(root: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipelines", *arguments, "--run-root", str(root)]


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(("PIXELIS_", "MLFLOW_"))}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read(path: Path) -> Any:
    return json.loads(path.read_text())


MADE_BY = {
    "clips": ("clips", "clips"),
    "trajectories": ("trajectories", "trajectories"),
    "recordings": ("recordings", "recordings"),
    "base": ("base_model", "model"),
    "sft": ("sft", "adapter"),
    "rft": ("rft", "adapter"),
    "encoder": ("alignment", "encoder"),
    "evaluation": ("evaluation", "evaluation"),
}
"""What promotion takes: the step and its output."""


def artifacts(directory: Path) -> dict[str, Path]:
    """A run's artifacts by the name that promotion has for them."""
    rows = {row["name"]: row["artifacts"] for row in read(directory / "summary.json")["steps"]}
    return {name: Path(rows[step][output]["uri"]) for name, (step, output) in MADE_BY.items()}


def promoting_evaluation(directory: Path, target: Path) -> Path:
    """A copy of a run's evaluation whose gate says promote; at this size the real one must hold."""
    from components.shared.runtime.records import read_artifact_record

    shutil.copytree(artifacts(directory)["evaluation"], target)
    gate = read(target / "gate.json") | {"decision": "promote"}
    record = read(target / "artifact.json")
    (target / "gate.json").write_text(json.dumps(gate))
    record["files"]["gate.json"] = (target / "gate.json").stat().st_size
    (target / "artifact.json").write_text(json.dumps(record))
    read_artifact_record(target)
    return target


def promote_anyway(directory: Path, folder: Path) -> Path:
    """A run's candidate put together under `folder` as if the gate had promoted it."""
    from components.promotion.config import PromotionConfig
    from components.promotion.promote import PromotionInputs, PromotionOutputs, promote

    model = folder / "model"
    model.mkdir()
    evaluation = promoting_evaluation(directory, folder / "evaluation")
    inputs = PromotionInputs(**artifacts(directory) | {"evaluation": evaluation})
    promote(PromotionConfig(), inputs, PromotionOutputs(model=model))
    return model


def done_before(directory: Path) -> set[str]:
    """Steps that a killed run's first attempt ended; without those that run each time.

    The order of steps that do not need each other is free, so whether alignment is among them when sft begins is not
    known beforehand.
    """
    records = [read(path) for path in (directory / "attempts" / "000").glob("*.json")]
    done = {record["step"] for record in records if record["status"] == "SUCCEEDED"} - {"configure", "finish"}
    assert done >= {"recordings", "clips", "trajectories", "base_model"}
    return done

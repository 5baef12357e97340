"""The step as KFP runs it: what it fetches from outside is inside its record too."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.evaluation.component import evaluation
from components.promotion.config import PromotionConfig
from components.shared.runtime.artifacts import read_json, tree_digest
from components.shared.runtime.config import canonical_json
from components.shared.runtime.errors import EnvironmentFault
from components.shared.runtime.records import ArtifactRecord, StepRecord, write_artifact_record


def recorded(folder: Path) -> SimpleNamespace:
    """An artifact of a finished step, as KFP hands it in."""
    folder.mkdir(parents=True, exist_ok=True)
    record = StepRecord(step=folder.name, run_id="run-1", status="SUCCEEDED")
    record.outputs["made"] = ArtifactRecord(str(folder), tree_digest(folder), "synthetic", "run-1", folder.name)
    write_artifact_record(folder, record, "made")
    return SimpleNamespace(path=str(folder), metadata={})


def test_a_tracking_server_that_is_away_fails_the_step_with_a_record(
    small_world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"  # bound and never listening: refused at once
        for name, value in {
            "MLFLOW_TRACKING_URI": address,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "PIXELIS_RUN_DIR": str(tmp_path / "run"),
            "PIXELIS_RUN_ID": "run-1",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("PIXELIS_RUNNER_PID", raising=False)
        inputs = {
            key: recorded(shutil.copytree(getattr(small_world, key), tmp_path / key))
            for key in ("clips", "trajectories", "recordings")
        }
        inputs |= {key: recorded(tmp_path / key) for key in ("base", "sft", "rft")}
        shown = ("evaluation", "metrics", "confusion", "page", "summary")
        outputs = {key: SimpleNamespace(path=str(tmp_path / "out" / key), metadata={}) for key in shown}
        with pytest.raises(EnvironmentFault, match="pixelis-twin@champion cannot be fetched from MLflow"):
            evaluation.python_func("{}", canonical_json(PromotionConfig().model_dump()), **inputs, **outputs)
    record = read_json(next((tmp_path / "run").rglob("evaluation*.json")))
    assert (record["status"], record["expected"]) == ("FAILED", True)
    assert "EnvironmentFault" in record["error"] and "--resume" in record["remedy"]
    assert not (tmp_path / "out" / "evaluation").exists()

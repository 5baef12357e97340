"""The run's summary: succeeded, failed, killed, cached and skipped steps, and the gate."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from components.finish.markdown import render_summary
from components.finish.summarize import finish_run
from components.shared.runtime.artifacts import write_json
from components.shared.runtime.records import ArtifactRecord, StepRecord, save_record, write_artifact_record

STEPS = ["configure", "recordings", "clips", "sft", "evaluation", "ttrl", "finish"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "runs" / "run-2"
    directory.mkdir(parents=True)
    monkeypatch.setenv("PIXELIS_RUN_ID", "run-2")
    monkeypatch.setenv("PIXELIS_RUN_DIR", str(directory))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("PIXELIS_MLFLOW_ARTIFACTS", (tmp_path / "mlartifacts").as_uri())
    return directory


def step(name: str, run_id: str = "run-2", status: str = "SUCCEEDED", **fields: object) -> StepRecord:
    return StepRecord(step=name, run_id=run_id, status=status, started=1.0, seconds=2.0, **fields)  # type: ignore[arg-type]


def artifact(folder: Path, record: StepRecord, name: str) -> ArtifactRecord:
    folder.mkdir(parents=True)
    (folder / "data").write_text("x")
    item = ArtifactRecord(str(folder), "0" * 64, "synthetic", record.run_id, record.step)
    record.outputs[name] = item
    write_artifact_record(folder, record, name)
    return item


def test_a_failed_run_tells_what_ran_what_was_cached_and_what_did_not_run(run: Path, tmp_path: Path) -> None:
    old = step("recordings", run_id="run-1", metrics={"num_recordings": 3.0})
    recordings = artifact(tmp_path / "old" / "recordings", old, "recordings")
    save_record(step("configure", config={"seed": 4}))
    save_record(step("clips", inputs={"recordings": [recordings]}))
    save_record(step("sft", status="FAILED", error="ValueError: bad", remedy="Mend it."))
    summary = finish_run(STEPS, "twin", state="FAILED")
    by_name = {row["name"]: row for row in summary["steps"]}
    assert {name: row["status"] for name, row in by_name.items()} == {
        "configure": "SUCCEEDED",
        "recordings": "CACHED",
        "clips": "SUCCEEDED",
        "sft": "FAILED",
        "evaluation": "SKIPPED",
        "ttrl": "SKIPPED",
    }
    assert by_name["recordings"]["made_by_run"] == "run-1"
    assert by_name["recordings"]["metrics"] == {"num_recordings": 3.0}
    assert by_name["sft"]["remedy"] == "Mend it."
    assert (summary["status"], summary["seed"]) == ("FAILED", 4)
    assert json.loads((run / "summary.json").read_text()) == summary
    assert "✗ FAILED" in (run / "summary.md").read_text()


def test_a_killed_step_counts_as_failed(run: Path) -> None:
    save_record(step("sft", status="RUNNING"))
    row = next(row for row in finish_run(STEPS, "twin", state="FAILED")["steps"] if row["name"] == "sft")
    assert row["status"] == "FAILED"
    assert "killed" in row["error"] and "--resume" in row["remedy"]


def test_members_of_a_fan_out_are_rows_before_their_join(run: Path) -> None:
    for name in ("clips", "clips.1", "clips.0"):
        save_record(step(name))
    names = [row["name"] for row in finish_run(STEPS, "twin", state="SUCCEEDED")["steps"]]
    assert names[2:5] == ["clips.0", "clips.1", "clips"]


@pytest.mark.parametrize("decision", ["promote", "hold"])
def test_the_gate_and_the_service_are_reported(run: Path, tmp_path: Path, decision: str) -> None:
    record = step("evaluation", metrics={"oca": 0.8})
    artifact(tmp_path / "evaluation", record, "evaluation")
    write_json(
        tmp_path / "evaluation" / "gate.json", {"decision": decision, "reasons": ["because"], "candidate": "rft"}
    )
    save_record(record)
    if decision == "promote":
        save_record(step("ttrl", facts={"service": {"url": "http://127.0.0.1:1", "model_digest": "d" * 64, "pid": 1}}))
    summary = finish_run(STEPS, "twin", state="SUCCEEDED")
    assert summary["gate"] == {"decision": decision, "reasons": ["because"], "candidate": "rft"}
    assert (summary["service"] is not None) == (decision == "promote")
    assert f"Gate: {decision}" in render_summary(summary)


def test_the_parent_run_is_closed_with_the_figures(run: Path, tmp_path: Path) -> None:
    from components.shared.runtime import tracking

    recordings = step("recordings")
    made = artifact(tmp_path / "recordings", recordings, "recordings")
    save_record(recordings)
    save_record(step("configure", config={"seed": 4}))
    save_record(step("evaluation", metrics={"oca": 0.8}))
    save_record(step("sft", status="FAILED", error="ValueError: bad", remedy="Mend it."))
    summary = finish_run(STEPS, "twin", state="FAILED")
    parent = tracking.client().get_run(summary["mlflow"]["run_id"])
    assert (parent.info.status, parent.data.metrics["oca"]) == ("FAILED", 0.8)
    assert parent.data.params == {"profile": "twin", "seed": "4"}
    [data] = parent.inputs.dataset_inputs
    assert (data.dataset.name, {tag.key: tag.value for tag in data.tags}["sha256"]) == ("recordings", made.sha256)
    assert parent.data.tags["mlflow.source.name"] == "pixelis"
    described = parent.data.tags["mlflow.note.content"]
    assert described.startswith("FAILED, profile twin, seed 4.\n- sft failed: ValueError: bad")


def test_records_survive_the_round_trip_through_tracking(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.finish.summarize import tracked_records
    from components.shared.runtime import tracking
    from components.shared.runtime.report import Report

    record = step("clips", metrics={"num_clips": 2.0}, config={"seed": 1})
    tracking.log_step(record, Report(metrics=record.metrics), None, "<p>page</p>")
    found = tracked_records("run-2")
    assert asdict(found["clips"])["metrics"] == {"num_clips": 2.0}


def test_a_step_that_a_person_stopped_is_no_failure(run: Path) -> None:
    save_record(step("configure", config={"seed": 4}))
    save_record(step("recordings", status="RUNNING"))
    summary = finish_run(STEPS, "twin", state="STOPPED")
    assert summary["status"] == "STOPPED"
    assert {row["name"]: row["status"] for row in summary["steps"]}["recordings"] == "STOPPED"
    assert "out of memory" not in render_summary(summary)
    save_record(step("recordings", status="RUNNING"))
    killed = finish_run(STEPS, "twin", state="FAILED")
    assert {row["name"]: row["status"] for row in killed["steps"]}["recordings"] == "FAILED"

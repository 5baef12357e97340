"""One real run of the whole pipeline at the smallest size: a killed step, its resumption, both branches of the gate.

Everything is real: rendering, training, evaluation, the tracking store, the service. Only the sizes are small, so the
gate holds the model for lack of sample size; what a promotion does is then tested on the same run's artifacts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from smallest import SMALLEST, done_before, environment, free_port, pixelis, promote_anyway, read

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


@contextlib.contextmanager
def until_step_has_checkpoint(directory: Path, step: str, timeout_s: float = 1200) -> Iterator[int]:
    """Yield the step's process id once its work folder holds a checkpoint."""
    deadline = time.monotonic() + timeout_s
    record = directory / "steps" / f"{step}.json"
    while time.monotonic() < deadline:
        checkpoints = list((directory / "work").glob(f"{step}-*/checkpoints/step-*/state.json"))
        if record.is_file() and checkpoints and read(record)["status"] == "RUNNING":
            yield int(read(record)["pid"])
            return
        time.sleep(0.05)
    raise AssertionError(f"step {step} wrote no checkpoint in {timeout_s} s")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run whose `sft` was killed with SIGKILL, and the same run resumed."""
    root = tmp_path_factory.mktemp("e2e") / "runs"
    sets = [item for key, value in SMALLEST.items() for item in ("--set", f"{key}={value}")]
    command = pixelis(root, "run", *sets, "--set", f"ttrl.port={free_port()}")
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
    while not list(root.glob("*/request.json")):
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.1)
    directory = next(root.glob("*/request.json")).parent
    with until_step_has_checkpoint(directory, "sft") as pid:
        os.kill(pid, signal.SIGKILL)
    output, _ = first.communicate(timeout=120)
    failed = read(directory / "summary.json")
    second = subprocess.run(
        pixelis(root, "run", "--resume", directory.name), capture_output=True, text=True, env=environment()
    )
    return {
        "root": root,
        "directory": directory,
        "first": (first.returncode, output),
        "failed": failed,
        "second": (second.returncode, second.stdout + second.stderr),
    }


def statuses(summary: dict[str, Any]) -> dict[str, str]:
    return {row["name"]: row["status"] for row in summary["steps"]}


def test_a_killed_step_fails_the_run_and_says_how_to_go_on(runs: dict[str, Any]) -> None:
    code, output = runs["first"]
    assert code == 6, output
    found = statuses(runs["failed"])
    assert found["sft"] == "FAILED"
    assert found["base_model"] == "SUCCEEDED"
    assert found["rft"] == "SKIPPED"
    assert f"--resume {runs['directory'].name}" in output
    assert "Step sft failed" in output


def test_resuming_runs_only_the_rest_and_ends_well(runs: dict[str, Any]) -> None:
    code, output = runs["second"]
    assert code == 0, output
    summary = read(runs["directory"] / "summary.json")
    found = statuses(summary)
    assert {found[name] for name in done_before(runs["directory"])} == {"CACHED"}
    assert {found[name] for name in ("sft", "rft", "evaluation")} == {"SUCCEEDED"}
    assert summary["status"] == "SUCCEEDED"


def test_the_killed_step_went_on_from_its_checkpoint(runs: dict[str, Any]) -> None:
    log = (runs["directory"] / "logs" / "sft.log").read_text()
    assert "resumed after step" in log, log[-2000:]


def test_the_gate_holds_a_model_judged_on_too_few_windows(runs: dict[str, Any]) -> None:
    summary = read(runs["directory"] / "summary.json")
    assert summary["gate"]["decision"] == "hold"
    assert any("window" in reason for reason in summary["gate"]["reasons"])
    assert summary["service"] is None
    assert {statuses(summary)[name] for name in ("promotion", "ttrl")} == {"SKIPPED"}
    assert "Gate: hold" in runs["second"][1]


def test_the_summary_has_what_it_promises(runs: dict[str, Any]) -> None:
    summary = read(runs["directory"] / "summary.json")
    assert {"run_id", "profile", "seed", "git_sha", "status", "steps", "gate", "mlflow", "service"} <= set(summary)
    for row in summary["steps"]:
        if row["status"] == "SUCCEEDED" and row["name"] != "configure":
            assert row["seconds"] > 0 and row["peak_rss_bytes"] > 1_000_000, row["name"]
            for artifact in row["artifacts"].values():
                assert len(artifact["sha256"]) == 64 and artifact["provenance"] == "synthetic"
    text = (runs["directory"] / "summary.md").read_text()
    for line in text.splitlines():
        if line.startswith("!["):
            assert (runs["directory"] / line.split("](")[1].rstrip(")")).is_file(), line


def test_tracking_traces_data_from_step_to_step(runs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{runs['root'] / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("pixelis").experiment_id
    found = client.search_runs([experiment], "tags.`pixelis.kind` = 'step' AND attributes.status = 'FINISHED'")
    by_step = {run.data.tags["pixelis.step"]: run for run in found}
    assert {"recordings", "clips", "trajectories", "base_model", "alignment", "sft", "rft", "evaluation"} <= set(
        by_step
    )

    def digests(step: str, context: str) -> dict[str, str]:
        inputs = by_step[step].inputs.dataset_inputs
        return {
            item.dataset.name: item.dataset.digest
            for item in inputs
            if any(tag.key == "mlflow.data.context" and tag.value == context for tag in item.tags)
        }

    assert digests("recordings", "output")["recordings"] == digests("clips", "input")["recordings"]
    assert digests("clips", "output")["clips"] == digests("sft", "input")["clips"]
    assert digests("base_model", "output")["model"] == digests("sft", "input")["base"]
    parents = {run.data.tags["mlflow.parentRunId"] for run in by_step.values()}
    assert parents == {read(runs["directory"] / "summary.json")["mlflow"]["run_id"]}


def test_no_half_written_artifact_is_left(runs: dict[str, Any]) -> None:
    leftovers = list(runs["directory"].rglob(".*staged-*"))
    assert leftovers == []


@pytest.fixture(scope="module")
def promoted(runs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's candidate put together as if the gate had promoted it (its decision is overridden in a copy)."""
    return promote_anyway(runs["directory"], tmp_path_factory.mktemp("promoted"))


def test_a_promoted_model_carries_all_the_service_needs(promoted: Path) -> None:
    facts = read(promoted / "promotion.json")
    assert facts["name"] == "pixelis-twin"
    for name in ("base", "encoder", "canary", "MODEL_CARD.md"):
        assert (promoted / name).exists(), name


def test_the_service_answers_from_the_promoted_model(promoted: Path, tmp_path: Path) -> None:
    from components.ttrl.config import TtrlConfig
    from components.ttrl.control import stop
    from components.ttrl.deploy import DeployInputs, DeployOutputs, deploy

    state = tmp_path / "state"
    service = tmp_path / "service"
    service.mkdir()
    config = TtrlConfig(port=free_port(), state_dir=str(state), rollouts=2)
    try:
        report = deploy(config, DeployInputs(model=promoted), DeployOutputs(service=service))
        record: Any = report.facts["service"]
        assert record["url"].endswith(str(config.port))
        assert len(record["model_digest"]) == 64
    finally:
        stop(state)


def test_the_gates_branches_in_the_pipeline(tmp_path: Path) -> None:
    """The real gate component, in a pipeline of its own, starts what stands behind `promote` and only then."""
    script = Path(__file__).parent / "gate_pipeline.py"
    for decision, started in (("promote", True), ("hold", False)):
        marker = tmp_path / decision
        done = subprocess.run(
            [sys.executable, str(script), decision, str(marker)], capture_output=True, text=True, env=environment()
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert marker.exists() == started

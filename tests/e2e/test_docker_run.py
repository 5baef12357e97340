"""The smallest pipeline in its images: `pixelis run --runner docker`, promotion, the service's container.

Needs a container engine that holds the images of this commit: `make e2e-docker` builds them and runs this.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from smallest import SMALLEST, artifacts, done_before, environment, free_port, pixelis, promoting_evaluation, read

from components.ttrl.control import is_running, read_record, status
from pipelines.config import compose
from pipelines.engine import LABEL
from pipelines.steps import STEPS

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("docker") / "runs"


@pytest.fixture(scope="module")
def run(engine: Any, root: Path) -> dict[str, Any]:
    """The runner is killed while sft trains; then the run is resumed."""
    sets = [item for key, value in SMALLEST.items() for item in ("--set", f"{key}={value}")]
    command = pixelis(root, "run", "--runner", "docker", *sets)
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
    deadline = time.monotonic() + 1200
    while not list(root.glob("*/work/sft-*/checkpoints/step-*/state.json")):
        assert first.poll() is None, first.communicate()[0]
        assert time.monotonic() < deadline, "sft wrote no checkpoint"
        time.sleep(0.2)
    first.kill()
    first.wait()
    directory = next(root.glob("*/request.json")).parent
    orphans = engine.containers.list(filters={"label": f"{LABEL}={directory.name}"})
    second = subprocess.run(
        pixelis(root, "run", "--resume", directory.name), capture_output=True, text=True, env=environment()
    )
    return {"directory": directory, "orphans": [item.id for item in orphans], "second": second}


@pytest.fixture(scope="module")
def service(run: dict[str, Any], root: Path) -> Iterator[dict[str, Any]]:
    """The candidate promoted and deployed by the real steps; stopped afterwards, whatever happens."""
    port = free_port()
    evaluation = promoting_evaluation(run["directory"], root / "evaluation")
    command = [sys.executable, str(HERE / "promotion_pipeline.py"), str(root), str(run["directory"]), str(evaluation)]
    try:
        done = subprocess.run([*command, str(port)], capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        yield {"port": port, "record": read_record(root / "ttrl"), "directory": Path(done.stdout.split()[-1])}
    finally:
        subprocess.run(pixelis(root, "ttrl", "stop"), env=environment())


def test_a_killed_runner_leaves_a_run_that_can_be_resumed(run: dict[str, Any], engine: Any) -> None:
    second = run["second"]
    assert second.returncode == 0, second.stdout + second.stderr
    summary = read(run["directory"] / "summary.json")
    found = {row["name"]: row["status"] for row in summary["steps"]}
    assert {found[name] for name in done_before(run["directory"])} == {"CACHED"}
    assert {found[name] for name in ("sft", "rft", "evaluation")} == {"SUCCEEDED"}
    assert "resumed after step" in (run["directory"] / "logs" / "sft.log").read_text()
    assert run["orphans"], "the killed runner's container was there"
    assert engine.containers.list(all=True, filters={"label": f"{LABEL}={run['directory'].name}"}) == []


def test_the_steps_ran_in_the_images(run: dict[str, Any]) -> None:
    """Every step's record says the image it ran in, which the image itself told it."""
    places = [*run["directory"].glob("attempts/*/*.json"), *run["directory"].glob("steps/*.json")]
    facts = {path.stem.partition(".")[0]: read(path)["facts"] for path in places}
    systems = {name: found["system"] for name, found in facts.items() if "system" in found}
    assert {"recordings", "clips", "trajectories", "base_model", "sft", "rft", "evaluation"} <= set(systems)
    images = {step.name: f"pixelis-{step.image}" for step in STEPS if step.name in systems}
    assert {name: system["image"] for name, system in systems.items()} == images
    tag = compose("twin", (), {}).placement.tag
    assert all(system["git_sha"].startswith(tag) for system in systems.values())
    summary = read(run["directory"] / "summary.json")
    assert summary["git_sha"].startswith(tag)
    assert all(row["peak_rss_bytes"] > 1_000_000 for row in summary["steps"] if row["status"] == "SUCCEEDED")


def test_everything_belongs_to_the_caller(run: dict[str, Any], service: dict[str, Any], root: Path) -> None:
    strange = [path for path in root.rglob("*") if path.lstat().st_uid != os.getuid()]
    assert strange == []


def test_figures_reached_the_tracking_store(run: dict[str, Any], root: Path) -> None:
    from mlflow import MlflowClient

    found = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiment = found.get_experiment_by_name("pixelis").experiment_id
    steps = found.search_runs([experiment], "tags.`pixelis.kind` = 'step' AND attributes.status = 'FINISHED'")
    assert {"recordings", "sft", "evaluation"} <= {item.data.tags["pixelis.step"] for item in steps}


def test_the_service_answers_from_a_hardened_container(
    service: dict[str, Any], root: Path, engine: Any, run: dict[str, Any]
) -> None:
    record = service["record"]
    assert record["url"] == f"http://127.0.0.1:{service['port']}"
    assert is_running(record)
    assert (
        status(root / "ttrl")["model_digest"]
        == read(next(service["directory"].rglob("service/service.json")))["model_digest"]
    )
    assert httpx.get(f"{record['url']}/readyz", trust_env=False).status_code == 200
    facts = engine.containers.get(record["container"]).attrs
    assert facts["HostConfig"]["ReadonlyRootfs"] and facts["HostConfig"]["CapDrop"] == ["ALL"]
    written = [item["Destination"] for item in facts["Mounts"] if item["RW"]]
    assert written == [str(root / "ttrl")], "it writes its state and nothing else"
    assert not any("docker.sock" in item["Source"] for item in facts["Mounts"])
    assert artifacts(run["directory"])["recordings"].exists()


def test_the_engine_calls_the_service_healthy_on_a_port_of_its_own(service: dict[str, Any], engine: Any) -> None:
    assert service["port"] != 8400
    deadline = time.monotonic() + 60  # it looks every 15 s
    while (found := engine.containers.get(service["record"]["container"]).attrs["State"]["Health"])[
        "Status"
    ] != "healthy":
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


def test_stopping_the_service_ends_its_container(service: dict[str, Any], root: Path, engine: Any) -> None:
    done = subprocess.run(pixelis(root, "ttrl", "stop"), capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout.strip()) == (0, "stopped")
    assert read_record(root / "ttrl") is None
    assert not any(item.name == service["record"]["container"] for item in engine.containers.list())
    assert "stopped" in (root / "ttrl" / "service.log").read_text()
    again = subprocess.run(pixelis(root, "ttrl", "stop"), capture_output=True, text=True, env=environment())
    assert again.stdout.strip() == "no service was running"

"""The deployment step in a container and the runner outside: orders, answers, and what becomes of them.

The service is real, a process of this machine in place of a container; the engine is a double that starts it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError, NotFound

from components.shared.runtime.errors import EnvironmentFault, StepError
from components.ttrl import control
from components.ttrl.config import TtrlConfig
from components.ttrl.deploy import DeployInputs, DeployOutputs, deploy
from components.ttrl.launcher_container import DESK, ContainerLauncher, from_environment
from pipelines.config import compose
from pipelines.service_container import ServiceDesk


class Container:
    """A process that an engine calls a container."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    @property
    def status(self) -> str:
        return "running" if self.process.poll() is None else "exited"

    def stop(self, *, timeout: int) -> None:
        self.process.terminate()
        self.process.wait(timeout)


class Engine:
    """Starts processes; refuses where it is told to."""

    def __init__(self) -> None:
        self.made: dict[str, Container] = {}
        self.options: dict[str, Any] = {}
        self.refuses: Exception | None = None
        self.containers = self

    def run(self, image: str, command: list[str], *, name: str, **options: Any) -> None:
        if self.refuses:
            raise self.refuses
        self.options = options
        environment = {**os.environ, **options["environment"]}
        command = [sys.executable if item == "python3" else item for item in command]
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        self.made[name] = Container(process)

    def get(self, name: str) -> Container:
        if name not in self.made:
            raise NotFound(name)
        return self.made[name]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    made = Engine()
    monkeypatch.setattr("docker.from_env", lambda: made)
    yield made
    for container in made.made.values():
        container.process.kill()
        container.process.wait()


@pytest.fixture
def desk(engine: Engine, tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "desk"
    folder.mkdir()
    arguments = {"environment": {DESK: str(folder), "PIXELIS_RUN_ID": "run-1", "OMP_NUM_THREADS": "1"}, "mounts": [],
                 "labels": {}}  # fmt: skip
    with ServiceDesk(folder, engine, "pixelis-serve:1", arguments, compose("twin", (), {})):
        yield folder


def section(**values: Any) -> TtrlConfig:
    return TtrlConfig(port=0, rollouts=2, learn=False, **values)


def launch(desk: Path, config: TtrlConfig, model: Path, service: Path) -> Any:
    service.mkdir(exist_ok=True)
    return deploy(
        config, DeployInputs(model=model), DeployOutputs(service=service), launcher=ContainerLauncher(desk, 20.0)
    )


def test_the_runner_starts_replaces_and_stops_the_service(
    desk: Path, engine: Engine, promoted: Path, tmp_path: Path
) -> None:
    config = section(state_dir=str(tmp_path / "state"))
    first = launch(desk, config, promoted, tmp_path / "service").facts["service"]
    assert first["container"] in engine.made
    assert control.is_running(first)
    assert control.process_of(first) is None, "its process number is the container's own"
    assert DESK not in engine.options["environment"] and "PIXELIS_RUN_ID" not in engine.options["environment"]
    writable = [mount["Target"] for mount in engine.options["mounts"] if not mount["ReadOnly"]]
    assert writable == [str(tmp_path / "state")]
    second = launch(desk, config, promoted, tmp_path / "service").facts["service"]
    assert second["container"] != first["container"]
    assert not control.is_running(first)
    assert control.status(tmp_path / "state")["model_digest"] == second["model_digest"]
    assert control.stop(tmp_path / "state")
    assert control.read_record(tmp_path / "state") is None
    assert not control.stop(tmp_path / "state")


def test_a_service_that_cannot_start_fails_the_step_with_its_log(desk: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "promotion.json").write_text("{}")
    with pytest.raises(StepError, match=r"ended while starting|not ready"):
        launch(desk, section(state_dir=str(tmp_path / "state"), ready_timeout_s=30), model, tmp_path / "service")
    assert control.read_record(tmp_path / "state") is None


@pytest.mark.parametrize("refusal", [APIError("no such image"), ConnectionError("the engine went away")])
def test_a_refusal_of_the_engine_reaches_the_step(
    desk: Path, engine: Engine, promoted: Path, tmp_path: Path, refusal: Exception
) -> None:
    engine.refuses = refusal
    with pytest.raises(StepError, match=str(refusal)):
        launch(desk, section(state_dir=str(tmp_path / "state")), promoted, tmp_path / "service")


def test_without_a_runner_the_step_says_so(tmp_path: Path, promoted: Path) -> None:
    with pytest.raises(EnvironmentFault, match="did not answer"):
        ContainerLauncher(tmp_path, 0.3).replace(section(), promoted, tmp_path / "state")


def test_the_runners_variable_chooses_this_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DESK, raising=False)
    assert from_environment() is None
    monkeypatch.setenv(DESK, str(tmp_path))
    assert from_environment() == ContainerLauncher(tmp_path)

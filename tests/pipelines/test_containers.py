"""Steps in containers: what a container is given and kept from. Starting them: tests/e2e/test_docker_run.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from components.shared.runtime.errors import ConfigError, EnvironmentFault
from pipelines import containers, engine
from pipelines.cli import check_runner
from pipelines.config import compose


class Engine:
    """As much of an engine as deciding how to start a container asks for."""

    def __init__(self, *options: str) -> None:
        self.options = list(options)

    def info(self) -> dict[str, Any]:
        return {"SecurityOptions": self.options}


def arguments(root: Path, *options: str, sets: tuple[str, ...] = ()) -> dict[str, Any]:
    return containers.container_arguments(Engine(*options), root, compose("twin", sets, {}), "run-1")


def test_a_container_writes_as_the_caller_and_only_where_it_may(tmp_path: Path) -> None:
    found = arguments(tmp_path, "name=seccomp,profile=default")
    assert found["user"] == f"{os.getuid()}:{os.getgid()}"
    assert (found["read_only"], found["cap_drop"]) == (True, ["ALL"])
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert [(mount["Source"], mount["Target"], mount["ReadOnly"]) for mount in found["mounts"]] == [
        (str(tmp_path), str(tmp_path), False)
    ]
    assert "device_requests" not in found


def test_what_the_engine_is_changes_how_containers_start(tmp_path: Path) -> None:
    assert arguments(tmp_path, "name=rootless")["user"] == "0:0", "a rootless engine's root is the caller"
    assert arguments(tmp_path, "name=userns")["userns_mode"] == "host"
    assert "label=disable" in arguments(tmp_path, "name=selinux")["security_opt"]
    gpu = arguments(tmp_path, sets=("placement.variant=gpu",))
    assert gpu["device_requests"][0]["Capabilities"] == [["gpu"]]


def test_folders_of_the_configuration_are_seen_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HOME", raising=False)
    root, data, state = tmp_path / "runs", tmp_path / "data", tmp_path / "state"
    for folder in (root, data, state, root / "inside"):
        folder.mkdir()
    sets = (
        f"recordings.path={data}",
        f"ttrl.state_dir={state}",
        f"base_model.hub.path={root / 'inside'}",
        f"trajectories.teacher.cache={tmp_path / 'missing'}",
    )
    found = {mount["Source"]: mount["ReadOnly"] for mount in arguments(root, sets=sets)["mounts"]}
    assert found == {str(root): False, str(data): True, str(state): False}


def test_only_named_variables_reach_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "PIXELIS_RUN_ID": "run-1", "MLFLOW_TRACKING_URI": "sqlite:///x", "HF_TOKEN": "t", "AWS_ACCESS_KEY_ID": "a",
        "https_proxy": "p", "MY_TEACHER": "k", "HF_HOME": str(tmp_path / "hub"),
    }  # fmt: skip
    kept = {
        "PIXELIS_RUNNER_PID": "1", "PIXELIS_GIT_SHA": "of the checkout, not the image's", "PIXELIS_IMAGE": "i",
        "PIXELIS_RUN__SEED": "3",
        "PIXELIS_CONFIG": str(Path("pipeline_config.yaml").absolute()), "SECRET": "s", "PATH_TO_HF_": "x",
    }  # fmt: skip
    monkeypatch.setattr(os, "environ", {**given, **kept})
    found = arguments(tmp_path, sets=("trajectories.teacher.key_variable=MY_TEACHER",))["environment"]
    assert found == given


def test_without_an_engine_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nothing/here.sock")
    with pytest.raises(EnvironmentFault, match="no container engine answers"):
        engine.engine()


def test_a_missing_image_is_named_with_the_command_that_builds_it() -> None:
    from docker.errors import ImageNotFound

    class Images:
        asked: list[str] = []

        def get(self, name: str) -> None:
            self.asked.append(name)
            if "pixelis-train" in name:
                raise ImageNotFound("no")

    client = Engine()
    client.images = Images()  # type: ignore[attr-defined]
    with pytest.raises(EnvironmentFault, match=r"pixelis-train:golden-cpu.*make images VARIANT=cpu"):
        engine.check_images(client, compose("twin", ["placement.tag=golden"], {}))


def test_a_container_that_fails_is_a_failure_and_is_removed(capsys: pytest.CaptureFixture[str]) -> None:
    """KFP's own function takes a container that is gone before it was asked for a success."""

    class Container:
        removed = False

        def logs(self, *, stream: bool) -> list[bytes]:
            return [b"caf\xc3\xa9\n", b"\xff\n"]

        def wait(self) -> dict[str, int]:
            assert not self.removed
            return {"StatusCode": 3}

        def remove(self, *, force: bool) -> None:
            self.removed = True

    made = Container()

    class Runs:
        def run(self, image: str, command: list[str], **options: Any) -> Container:
            assert options["detach"] and "auto_remove" not in options
            return made

    client = Engine()
    client.containers = Runs()  # type: ignore[attr-defined]
    assert containers.run_container(client, "image", ["false"], {}) == 3
    assert made.removed
    printed = capsys.readouterr().out
    assert "café" in printed and "exit code 3" in printed


def test_an_unknown_runner_is_refused() -> None:
    check_runner("docker")
    with pytest.raises(ConfigError, match="podman"):
        check_runner("podman")

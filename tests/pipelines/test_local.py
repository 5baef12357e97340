"""The local runner: what is refused before a run, and how a run is found again."""

from __future__ import annotations

import os
import socket
import sqlite3
from pathlib import Path

import pytest

from components.shared.runtime.errors import ConfigError, EnvironmentFault
from pipelines import local
from pipelines.config import compose


def test_a_run_root_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        local.prepare_root(blocked / "runs")


def test_a_run_root_with_python3_in_its_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="python3"):
        local.prepare_root(tmp_path / "python3.11")


def test_a_tracking_server_that_is_down_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with pytest.raises(EnvironmentFault, match=f"{port} does not answer"):
        local.check_tracking(tmp_path)


def test_without_a_server_the_run_root_keeps_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PIXELIS_MLFLOW_ARTIFACTS", "")
    assert local.check_tracking(tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_a_port_taken_by_another_program_is_refused_before_any_work(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        config = compose("twin", [f"ttrl.port={port}"], {})
        with pytest.raises(EnvironmentFault, match=f"port {port} .* taken"):
            local.check_port(config, tmp_path)
        local.check_port(compose("twin", [f"ttrl.port={port}", "ttrl.deploy=false"], {}), tmp_path)


def test_a_request_is_found_again_on_resume(tmp_path: Path) -> None:
    asked = local.Request(profile="twin", overrides=("run.seed=3",), until="clips")
    assert local.earlier_request(tmp_path, local.new_run(tmp_path, asked).name) == asked


def test_resuming_an_unknown_run_names_those_that_exist(tmp_path: Path) -> None:
    directory = local.new_run(tmp_path, local.Request())
    with pytest.raises(ConfigError, match=directory.name):
        local.earlier_request(tmp_path, "nothing")


def test_a_relative_data_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["recordings.path=data", "recordings.source=segments", "recordings.path=s3://bucket/data"]
    assert local.absolute_paths(given) == [f"recordings.path={tmp_path / 'data'}", given[1], given[2]]
    for key in ("base_model.hub.path", "trajectories.teacher.cache", "ttrl.keys_file", "ttrl.state_dir"):
        assert local.absolute_paths([f"{key}=some/where"]) == [f"{key}={tmp_path / 'some/where'}"]
        assert local.absolute_paths([f"{key}="]) == [f"{key}="]


def test_a_run_has_one_owner(tmp_path: Path) -> None:
    with (
        local.owned(tmp_path / "run"),
        pytest.raises(EnvironmentFault, match=str(os.getpid())),
        local.owned(tmp_path / "run"),
    ):
        pass


def test_an_earlier_attempts_records_are_kept_apart(tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "sft.json").write_text("{}")
    (tmp_path / "summary.json").write_text("{}")
    local.archive_attempt(tmp_path)
    assert (tmp_path / "attempts" / "000" / "sft.json").exists()
    assert not (tmp_path / "summary.json").exists()


def test_what_a_killed_step_was_writing_is_removed(tmp_path: Path) -> None:
    staged = tmp_path / "artifacts" / "run" / "sft" / ".adapter.staged-abc"
    staged.mkdir(parents=True)
    (staged / "half").write_text("")
    (staged.parent / "adapter").mkdir()
    local.remove_unfinished(tmp_path)
    assert [path.name for path in staged.parent.iterdir()] == ["adapter"]


def test_a_tracking_store_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local.make_store(tmp_path / "mlflow.db")
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        assert store.execute("SELECT name FROM experiments").fetchall() == [("Default",)]
    local.make_store(tmp_path / "mlflow.db")
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    monkeypatch.setattr(local.sys, "executable", "false")
    with pytest.raises(EnvironmentFault, match="cannot be made"):
        local.make_store(tmp_path / "other.db")
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]

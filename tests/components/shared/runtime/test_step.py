"""A step's execution: inputs checked, outputs whole or absent, figures recorded, faults told."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.shared.runtime import tracking
from components.shared.runtime.config import StepSection
from components.shared.runtime.errors import ArtifactError, ConfigError, EnvironmentFault
from components.shared.runtime.records import read_artifact_record
from components.shared.runtime.report import Report
from components.shared.runtime.step import run_step


class Settings(StepSection):
    """A section with one key."""

    text: str = "hello"


@dataclass(frozen=True)
class Inputs:
    """One optional artifact."""

    source: Path | None = None


@dataclass(frozen=True)
class Outputs:
    """One artifact and a folder that survives."""

    made: Path
    work: Path


def artifact(path: Path) -> SimpleNamespace:
    return SimpleNamespace(path=str(path), metadata={})


def verb(config: Settings, inputs: Inputs, outputs: Outputs) -> Report:
    (outputs.made / "data").write_text(config.text)
    return Report(metrics={"length": float(len(config.text))}, markdown="# done")


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIXELIS_RUN_DIR", "PIXELIS_RUNNER_PID", "PIXELIS_WORK_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIXELIS_RUN_ID", "run-1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("PIXELIS_MLFLOW_ARTIFACTS", (tmp_path / "mlartifacts").as_uri())


def run(tmp_path: Path, action: Any = verb, section: str = "{}", **inputs: Any) -> SimpleNamespace:
    made = artifact(tmp_path / "out" / "made")
    run_step("step", action, (Settings, section), (Inputs, inputs), (Outputs, {"made": made}))
    return made


def test_an_artifact_is_made_recorded_and_tracked(tmp_path: Path) -> None:
    made = run(tmp_path, section='{"text":"hi"}')
    item, record = read_artifact_record(Path(made.path))
    assert made.metadata["sha256"] == item.sha256
    assert (record.status, record.metrics, record.config["text"]) == ("SUCCEEDED", {"length": 2.0}, "hi")
    assert record.seconds > 0 and record.peak_rss_bytes > 1_000_000
    api = tracking.client()
    found = api.search_runs([tracking.experiment_id(api)], "tags.`pixelis.kind` = 'step'")
    assert found[0].data.metrics["length"] == 2.0
    assert found[0].data.tags["mlflow.note.content"] == record.markdown != ""


def test_a_verb_that_fails_leaves_nothing_but_its_work(tmp_path: Path) -> None:
    def fails(config: Settings, inputs: Inputs, outputs: Outputs) -> Report:
        (outputs.made / "half").write_text("x")
        (outputs.work / "checkpoint").write_text("kept")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        run(tmp_path, fails)
    left = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert left == ["checkpoint"]


def test_the_next_attempt_receives_the_same_work_folder(tmp_path: Path) -> None:
    seen: list[tuple[Path, bool]] = []

    def twice(config: Settings, inputs: Inputs, outputs: Outputs) -> Report:
        seen.append((outputs.work, (outputs.work / "checkpoint").exists()))
        (outputs.work / "checkpoint").write_text("x")
        if len(seen) == 1:
            raise RuntimeError("killed")
        return verb(config, inputs, outputs)

    with pytest.raises(RuntimeError):
        run(tmp_path, twice)
    run(tmp_path, twice)
    assert seen[0][0] == seen[1][0]
    assert [found for _, found in seen] == [False, True]
    assert not seen[0][0].exists(), "work is removed once the step is done"


def test_a_damaged_input_is_refused_before_any_work(tmp_path: Path) -> None:
    source = Path(run(tmp_path).path)
    (source / "data").write_text("other length")
    with pytest.raises(ArtifactError, match="data is 12 bytes instead of 5"):
        run(tmp_path / "second", source=artifact(source))
    assert not (tmp_path / "second" / "out" / "made").exists()


def test_inputs_are_traced_to_the_step_that_made_them(tmp_path: Path) -> None:
    first = run(tmp_path)
    second = run(tmp_path / "second", source=first)
    _, record = read_artifact_record(Path(second.path))
    assert record.inputs["source"][0].sha256 == first.metadata["sha256"]
    assert record.inputs["source"][0].step == "step"


def test_a_wrong_section_is_refused_by_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"step\.txt = 'x': no such key"):
        run(tmp_path, section='{"txt":"x"}')


def test_a_full_disk_is_explained(tmp_path: Path) -> None:
    def full(config: Settings, inputs: Inputs, outputs: Outputs) -> Report:
        raise OSError(errno.ENOSPC, "No space left on device", "clip.tar")

    with pytest.raises(EnvironmentFault, match=r"disk is full \(clip\.tar\).*--resume"):
        run(tmp_path, full)


def test_a_tracking_server_that_fails_does_not_cost_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: Any) -> str:
        raise ConnectionError("server is gone")

    monkeypatch.setattr(tracking, "log_step", down)
    made = run(tmp_path)
    assert (Path(made.path) / "data").read_text() == "hello"


def test_pictures_point_into_the_finished_artifact(tmp_path: Path) -> None:
    def draws(config: Settings, inputs: Inputs, outputs: Outputs) -> Report:
        (outputs.made / "picture.png").write_bytes(b"\x89PNG")
        return Report(pictures={"a picture": outputs.made / "picture.png"})

    page = SimpleNamespace(path=str(tmp_path / "page.html"))
    made = artifact(tmp_path / "out" / "made")
    report = run_step("step", draws, (Settings, "{}"), (Inputs, {}), (Outputs, {"made": made}), {"page": page})
    assert report.pictures["a picture"] == Path(made.path) / "picture.png"
    assert "data:image/png;base64" in Path(page.path).read_text()


def test_a_record_of_another_version_is_refused_and_not_a_crash(tmp_path: Path) -> None:
    source = Path(run(tmp_path).path)
    record = json.loads((source / "artifact.json").read_text())
    record["made_by"]["a_field_of_tomorrow"] = 1
    (source / "artifact.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match="a_field_of_tomorrow"):
        read_artifact_record(source)

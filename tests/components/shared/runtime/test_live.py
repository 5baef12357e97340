"""Curves reach MLflow while a step works, once each, and a dead server costs the step nothing."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient

from components.shared.runtime import live, tracking
from components.shared.runtime.config import StepSection
from components.shared.runtime.live import LiveCurves
from components.shared.runtime.records import load_records
from components.shared.runtime.report import Report
from components.shared.runtime.step import run_step


@dataclass(frozen=True)
class Inputs:
    """No artifact."""


@dataclass(frozen=True)
class Outputs:
    """One artifact."""

    made: Path


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PIXELIS_RUN_ID", "run-1")
    monkeypatch.setenv("PIXELIS_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("PIXELIS_RUNNER_PID", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("PIXELIS_MLFLOW_ARTIFACTS", (tmp_path / "mlartifacts").as_uri())
    monkeypatch.setattr(live, "EVERY_S", 0.05)
    saved = os.dup(1), os.dup(2)
    yield
    for number, handle in enumerate(saved, 1):  # run_step sends output to the step's log
        os.dup2(handle, number)
        os.close(handle)


def run(tmp_path, verb):
    made = SimpleNamespace(path=str(tmp_path / "made"), metadata={})
    return run_step("sft", verb, (StepSection, "{}"), (Inputs, {}), (Outputs, {"made": made}))


def history(name):
    api = MlflowClient()
    (child,) = api.search_runs(["1"], "tags.`pixelis.step` = 'sft'")
    return [(point.step, point.value) for point in api.get_metric_history(child.info.run_id, name)], child.info.status


def test_values_are_there_while_the_step_works_and_once_each_at_its_end(tmp_path):
    seen = []

    def verb(config, inputs, outputs):
        with LiveCurves() as curves:
            curves.note(1, loss=2.0)
            curves.note(2, loss=1.0, score=float("nan"))
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline and len(history("curve.loss")[0]) < 2:
                time.sleep(0.05)
            seen.append(history("curve.loss"))
        return Report(curves={"loss": [(1.0, 2.0), (2.0, 1.0), (3.0, 0.5)]})

    run(tmp_path, verb)
    assert seen == [([(1, 2.0), (2, 1.0)], "RUNNING")]
    assert history("curve.loss") == ([(1, 2.0), (2, 1.0), (3, 0.5)], "FINISHED")
    assert history("curve.score")[0] == []


def test_a_second_attempt_goes_on_in_the_run_of_the_first(tmp_path):
    def dies(config, inputs, outputs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, dies)
    run(tmp_path, lambda config, inputs, outputs: Report(metrics={"x": 1.0}))
    assert history("x") == ([(0, 1.0)], "FINISHED")
    assert tracking.STEP_RUN not in os.environ
    assert load_records(tmp_path / "run")["sft"].facts["system"]["python"]


def test_a_server_that_fails_costs_the_step_nothing(monkeypatch, caplog):
    monkeypatch.setenv(tracking.STEP_RUN, "some-run")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    started = time.monotonic()
    with LiveCurves() as curves:
        curves.note(1, loss=1.0)
        time.sleep(0.5)
        curves.note(2, loss=1.0)
    assert time.monotonic() - started < 20
    assert caplog.text.count("do not reach MLflow") == 1


def test_without_an_open_run_nothing_is_sent(monkeypatch):
    monkeypatch.delenv(tracking.STEP_RUN, raising=False)
    with LiveCurves() as curves:
        curves.note(1, loss=1.0)
    assert not curves._waiting
    assert not curves._thread.is_alive()

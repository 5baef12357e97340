"""Steps that may train on several nodes: a node's command line is one that the step's own entry point takes."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import pytest

from components.shared.runtime import alone, node
from components.shared.runtime.train_job import Job
from pipelines.steps import STEPS

SEVERAL = [step.name for step in STEPS if step.several_nodes]


def entry_point(step: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """What `python -m components.<step>` hands to `alone.main`."""
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(alone, "main", lambda *words: seen.append(words))
    runpy.run_module(f"components.{step}", run_name="__main__")
    [found] = seen
    return found


@pytest.mark.parametrize("step", SEVERAL)
def test_a_node_starts_the_step_with_every_input_and_output(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, section, inputs, outputs = entry_point(step, monkeypatch)
    wanted = {field.name: f"/in/{field.name}" for field in dataclasses.fields(inputs)}
    made = tuple(field.name for field in dataclasses.fields(outputs) if field.name != "work")
    job = Job(module=f"components.{step}", section={}, inputs=wanted, outputs=made, exchange="s3://b/x")
    started: list[list[str]] = []
    monkeypatch.setattr(node.Processes, "run", lambda self, job, words: started.append(words) or 0)
    assert node.run(job, tmp_path, rank=1) == 0
    given = alone.parser(name, section, inputs, outputs).parse_args(started[0])
    assert {key: str(getattr(given, key)) for key in wanted} == wanted
    assert {key: getattr(given, f"out_{key}") for key in made} == {key: tmp_path / "outputs" / key for key in made}
    assert given.out_work.is_dir()
    assert given.report.parent.is_dir()

"""Runs the pipeline on a Kubeflow: uploads its version, starts a run, follows it with the table a local run shows."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from components.shared.runtime.artifacts import write_json
from components.shared.runtime.errors import EnvironmentFault, StepError
from pipelines.cluster import Server, Version, check_parameters, compile_to, explained, may_pass, pipeline_name
from pipelines.display import MARKS, Monitor
from pipelines.steps import STEPS

EXPERIMENT = "pixelis"
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
STATES = {
    "RUNNING": "RUNNING",
    "CANCELING": "RUNNING",
    "SUCCEEDED": "SUCCEEDED",
    "FAILED": "FAILED",
    "CANCELED": "FAILED",
}
MEMBERS = {"clip-groups": "clips.groups", "clips-join": "clips", "gate": "evaluation.gate"}
"""Tasks of the DAG that belong to a step of another name."""


@dataclass(frozen=True)
class Submitted:
    """A run that was started."""

    run_id: str
    version: Version
    url: str


def submit(
    server: Server, profile: str, overrides: tuple[str, ...], parameters: dict[str, Any], *, service_account: str = ""
) -> Submitted:
    """Upload the profile's pipeline where its content is new, and start a run.

    Raises:
        ConfigError: a parameter that the run form does not have; nothing was started.
        EnvironmentFault: the server refuses.
    """
    check_parameters(parameters, profile)
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "pipeline.yaml"
        compile_to(package, profile, overrides)
        version = server.upload(package, pipeline_name(profile), f"Pixelis training, profile {profile}")
    experiment = server.experiment_id(EXPERIMENT)
    import kfp_server_api

    body = kfp_server_api.V2beta1Run(
        experiment_id=experiment,
        display_name=f"{profile} {version.name} {time.strftime('%Y-%m-%d %H:%M:%S')}",
        pipeline_version_reference=kfp_server_api.V2beta1PipelineVersionReference(
            pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
        ),
        runtime_config=kfp_server_api.V2beta1RuntimeConfig(parameters=parameters),
        service_account=service_account or None,
    )
    with explained(server.host):
        run = server.client._run_api.run_service_create_run(body)
    run_id = server.identified(run.run_id, "the run")
    return Submitted(run_id, version, f"{server.host}/#/runs/details/{run_id}")


def follow(server: Server, run_id: str, console: Console, *, poll_s: float = 5.0, patience_s: float = 600.0) -> Any:
    """Show the run's steps until it ends; returns the run as the server has it.

    A server that is silent for less than `patience_s` (a port-forward that is started again) is waited for.

    Raises:
        EnvironmentFault: it is silent for longer, or refuses (no such run, a token that ended); the run itself goes on.
        StepError: the run did not succeed; names the tasks that failed and what the server says about them.
    """
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        (directory / "steps").mkdir()
        with Monitor(directory, console):
            heard = time.monotonic()
            while True:
                try:
                    with explained(server.host):
                        run = server.client.get_run(run_id)
                    server.identified(run.run_id, f"run {run_id}")
                except EnvironmentFault as error:
                    if getattr(error.__cause__, "status", None) == 404:
                        raise
                    if not may_pass(error) or time.monotonic() - heard > patience_s:
                        raise EnvironmentFault(
                            f"{error.message} Run {run_id} goes on without anybody looking.",
                            remedy=f"{error.remedy} {looking_again(server, run_id)}".strip(),
                        ) from error
                    time.sleep(poll_s)
                    continue
                heard = time.monotonic()
                tasks = step_records(run)
                for name, record in tasks.items():
                    write_json(directory / "steps" / f"{name}.json", record)
                if run.state in ENDED:
                    break
                time.sleep(poll_s)
    print_steps(console, tasks)
    if run.state != "SUCCEEDED":
        failed = [f"{name} ({record['error']})" for name, record in tasks.items() if record["status"] == "FAILED"]
        reason = "; ".join(failed) or (run.error.message if run.error else "") or "no task says why"
        raise StepError(
            f"run {run_id} ended as {run.state}: {reason}.", remedy=f"Logs: {server.host}/#/runs/details/{run_id}"
        )
    return run


def looking_again(server: Server, run_id: str) -> str:
    """How a person finds the run again."""
    again = f"pixelis submit --host {server.host} --follow {run_id}"
    return f"Look at {server.host}/#/runs/details/{run_id}, or follow it again: {again}"


def step_records(run: Any) -> dict[str, dict[str, Any]]:
    """The run's tasks as the step records that the table reads; those that have not started are left out."""
    details = (run.run_details.task_details if run.run_details else None) or []
    started = [task for task in details if task.state in STATES and task.start_time]
    names = {step.name for step in STEPS}
    records: dict[str, dict[str, Any]] = {}
    members = 0
    for task in sorted(started, key=lambda task: (task.start_time, task.task_id)):
        label = MEMBERS.get(task.display_name, task.display_name.replace("-", "_"))
        if label.partition(".")[0] not in names:
            continue  # a group of the DAG: exit handler, loop, condition
        if task.display_name == "clips":
            label, members = f"clips.{members}", members + 1
        end = task.end_time or datetime.now(UTC)
        if task.end_time is not None and task.end_time.year < 1980:  # the server's form of "not yet"
            end = datetime.now(UTC)
        records[label] = {
            "status": STATES[task.state],
            "started": task.start_time.timestamp(),
            "seconds": max(0.0, (end - task.start_time).total_seconds()),
            "metrics": {},
            "error": (task.error.message if task.error else "") or "",
        }
    return records


def print_steps(console: Console, records: dict[str, dict[str, Any]]) -> None:
    """Every task with its state and time."""
    table = Table(box=None, padding=(0, 2))
    for column in ("task", "state", "seconds"):
        table.add_column(column, justify="right" if column == "seconds" else "left")
    for name, record in records.items():
        mark, colour = MARKS[record["status"]]
        table.add_row(name, Text(f"{mark} {record['status']}", colour), f"{record['seconds']:.1f}")
    console.print(table)


def mlflow_link(address: str, run_id: str) -> str:
    """Where the run's figures are in MLflow."""
    return f"{address.rstrip('/')}/#/experiments (filter: tags.`pixelis.run_id` = '{run_id}')"

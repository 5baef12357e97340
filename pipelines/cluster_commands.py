"""The commands that speak to a cluster: `pixelis submit`, `pixelis schedule`, `pixelis gitops`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from components.shared.runtime.artifacts import atomic_write
from components.shared.runtime.errors import ConfigError
from pipelines.config import parse
from pipelines.terminal import console

Host = Annotated[
    str, typer.Option(help="Address of Kubeflow Pipelines (API or UI).", envvar="PIXELIS_KFP_HOST", show_default=False)
]
Namespace = Annotated[str, typer.Option(help="Your namespace, on a multi-user Kubeflow.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="section.key=value over the configuration; repeatable.", metavar="KEY=VALUE"),
]
Params = Annotated[
    list[str] | None,
    typer.Option("--param", help="A value of the run form, such as seed=3; repeatable.", metavar="NAME=VALUE"),
]
Profile = Annotated[str, typer.Option(help="Which profile of pipeline_config.yaml: twin, gpu-3b or gpu-7b.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the `pixelis` command."""
    app.command()(submit)
    app.command()(schedule)
    app.command()(gitops)


def submit(
    host: Host,
    profile: Profile = "twin",
    sets: Sets = None,
    params: Params = None,
    namespace: Namespace = "",
    mlflow: Annotated[str, typer.Option(help="Address of MLflow as you see it, for the link.")] = "",
    service_account: Annotated[str, typer.Option(help="Account of the tasks; the server's where empty.")] = "",
    wait: Annotated[bool, typer.Option(help="Follow the run to its end.")] = True,
    follow: Annotated[str, typer.Option(help="Start nothing: follow this run to its end.", metavar="RUN")] = "",
    poll_s: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.05)] = 5.0,
) -> None:
    """Start a run on a Kubeflow.

    Uploads the pipeline where its version is new, and follows the run to its end.
    """
    from pipelines import submit as submitting
    from pipelines.cluster import Server

    if follow and (sets or params or service_account or not wait):
        raise ConfigError(
            "--follow starts nothing, so --set, --param, --service-account and --no-wait do not go with it."
        )
    out = console()
    values = parameters(params or [], profile)
    server = Server(host, namespace=namespace, token=os.environ.get("PIXELIS_KFP_TOKEN", ""))
    if follow:
        watch(server, follow, out, poll_s)
        return
    run = submitting.submit(server, profile, tuple(sets or ()), values, service_account=service_account)
    state = "uploaded" if run.version.is_new else "already there"
    out.print(f"Version {run.version.name} ({state}), run {run.run_id}", highlight=False)
    out.print(f"UI: {run.url}", highlight=False, soft_wrap=True)
    if mlflow:
        out.print(
            f"MLflow: {submitting.mlflow_link(mlflow, run.run_id)}", highlight=False, soft_wrap=True, markup=False
        )
    if wait:
        watch(server, run.run_id, out, poll_s)


def watch(server: Any, run_id: str, out: Any, poll_s: float) -> None:
    """Follow a run; a person who has seen enough is told that it goes on."""
    from pipelines.submit import follow, looking_again

    try:
        follow(server, run_id, out, poll_s=poll_s)
    except KeyboardInterrupt:
        out.print(f"Run {run_id} goes on. {looking_again(server, run_id)}", highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None


def schedule(
    host: Host,
    file: Annotated[Path, typer.Option("--file", "-f", help="The schedule.")] = Path("manifests/schedule.yaml"),
    namespace: Namespace = "",
) -> None:
    """Make a Kubeflow's recurring runs what a file says.

    A second time changes nothing.
    """
    from pipelines.cluster import Server
    from pipelines.schedule import read_schedule, reconcile

    entries = read_schedule(file)
    server = Server(host, namespace=namespace, token=os.environ.get("PIXELIS_KFP_TOKEN", ""))
    for change in reconcile(server, entries):
        console().print(f"{change.action}: {change.name}", highlight=False)


def gitops(
    profile: Profile = "twin",
    sets: Sets = None,
    namespace: Annotated[str, typer.Option(help="Namespace of the resources.")] = "kubeflow",
    output: Annotated[Path | None, typer.Option(help="File to write; standard output by default.")] = None,
) -> None:
    """Print the pipeline as Kubernetes resources.

    Pipeline and PipelineVersion, to commit to a cluster's repository.
    """
    from pipelines.cluster import check_namespace
    from pipelines.gitops import resources

    check_namespace(namespace)
    if output and output.is_dir():
        raise ConfigError(
            f"--output {output} is a folder; nothing was written.", remedy=f"Name a file: {output}/p.yaml"
        )
    text = yaml.safe_dump_all(resources(profile, tuple(sets or ()), namespace), sort_keys=False)
    if output:
        atomic_write(output, text)
    else:
        sys.stdout.write(text)


def parameters(items: list[str], profile: str) -> dict[str, Any]:
    """NAME=VALUE items: a text of the run form as it stands (`overrides` is JSON in a text), the others in YAML."""
    from pipelines.cluster import form

    found = {}
    known = form(profile) if items else {}
    for item in items:
        name, sign, text = item.partition("=")
        if not sign or not name:
            raise ConfigError(f"--param {item!r} is not of the form NAME=VALUE; nothing was started.")
        found[name] = text if known.get(name) == "String" else parse(text, f"parameter {name}")
    return found

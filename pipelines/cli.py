"""The `pixelis` command: what runs here, what looks at it, what serves it; the others add theirs."""

from __future__ import annotations

import errno
import os
import socket
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from components.shared.runtime.errors import ConfigError, EnvironmentFault, InputError, PixelisError
from pipelines import cluster_commands, commands, runs
from pipelines.steps import STEPS
from pipelines.terminal import console

ORDER = [step.name for step in STEPS if step.name != "finish"]
DEFAULT_ROOT = Path("runs")
app = typer.Typer(
    help="Train, judge and deploy a vision-language agent from recordings of people at work.\n\n"
    "Start with `pixelis doctor` (does this machine fit?) and `pixelis run` (the whole pipeline on the digital twin, "
    "about a quarter of an hour on two cores); `pixelis status` shows what a run did.\n\n"
    "Exit codes: 0 done (also where the gate holds the model), 2 configuration, 3 input, 4 artifact, 5 this machine, "
    "6 a step failed, 7 no model that can be served, 8 the experience buffer, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def tell_version(wanted: bool) -> None:
    """Print the version and the commit, and end."""
    if wanted:
        from importlib.metadata import version

        from pipelines.config import git_sha

        typer.echo(f"pixelis {version('pixelis')}, commit {git_sha()[:12] or 'unknown'}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help=tell_version.__doc__, callback=tell_version, is_eager=True)
    ] = False,
) -> None:
    """What stands before a command."""


ttrl_app = typer.Typer(help="The deployed service: status, stop, serve.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(ttrl_app, name="ttrl")
app.add_typer(commands.operations_app, name="operations")
app.add_typer(commands.shards_app, name="shards")
app.add_typer(commands.buffer_app, name="buffer")

RunRoot = Annotated[Path, typer.Option(help="Folder that keeps runs, cache, tracking store and service state.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="section.key=value over the configuration; repeatable.", metavar="KEY=VALUE"),
]
Profile = Annotated[str, typer.Option(help="Which profile of pipeline_config.yaml: twin, gpu-3b or gpu-7b.")]
Until = Annotated[str, typer.Option(help=f"Last step to run: {', '.join(ORDER)}.")]


@app.command()
def run(
    profile: Profile = "twin",
    sets: Sets = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every step (the same as --set run.seed=N).")] = None,
    deterministic: Annotated[bool, typer.Option(help="Refuse algorithms that depend on scheduling.")] = False,
    until: Until = "",
    resume: Annotated[str, typer.Option(help="Id of an earlier run: do only what it left undone.", metavar="RUN")] = "",
    run_root: RunRoot = DEFAULT_ROOT,
    runner: Annotated[
        str, typer.Option(help="How steps run: subprocess (of this Python) or docker (images of this commit).")
    ] = "",
) -> None:
    """Run the whole pipeline on this machine.

    Unchanged steps come from the cache; what the gate promotes is deployed.
    """
    from pipelines import local
    from pipelines.config import compose
    from pipelines.display import Monitor, print_summary

    overrides = [*(sets or []), *([f"run.seed={seed}"] if seed is not None else [])]
    overrides += ["run.deterministic=true"] if deterministic else []
    if resume and (overrides or until or runner):
        raise ConfigError(
            "--resume repeats the earlier run's request; --set, --seed, --deterministic, --until and --runner do not "
            "go with it.",
            remedy="Resume without them, or start a new run (unchanged steps come from the cache).",
        )
    check_step(until)
    check_runner(runner)
    overrides = [*environment_overrides(), *overrides]
    root = local.prepare_root(run_root)
    request = local.Request(profile, tuple(local.absolute_paths(overrides)), until, runner or local.RUNNERS[0])
    if resume:
        request = local.earlier_request(root, resume)
    config = compose(request.profile, request.overrides, {})
    if request.runner == "docker":
        check_engine(config)
    tracking = local.check_tracking(root)
    local.check_port(config, root)
    directory = root / resume if resume else local.new_run(root, request)
    with local.owned(directory):
        if resume:
            local.archive_attempt(directory)
            local.remove_unfinished(directory)
        local.export_environment(directory, root, tracking, config)
        out = console()
        out.print(f"Run {directory.name}, profile {request.profile}, in {directory}", highlight=False)
        state = "SUCCEEDED"
        with Monitor(directory, out, until=request.until):
            try:
                with local.stopped_by_signals():
                    local.run_pipeline(directory, root, request)
            except KeyboardInterrupt:
                state = "STOPPED"
            except RuntimeError:
                state = "FAILED"
                if local.load_summary(directory) is None and not any((directory / "steps").glob("*.json")):
                    raise
        local.remove_unfinished(directory)
        summary = local.load_summary(directory)
        if summary is None or state == "STOPPED":
            summary = local.fallback_summary(directory, request, state)
        print_summary(out, summary, directory)
        explain(summary, directory, root, state)


def environment_overrides() -> list[str]:
    """PIXELIS_SECTION__KEY variables as --set items, so that a run's request is complete and can be resumed."""
    from pipelines.config import PREFIX

    names = sorted(name for name in os.environ if name.startswith(PREFIX) and "__" in name)
    return [f"{name.removeprefix(PREFIX).lower().replace('__', '.')}={os.environ[name]}" for name in names]


def explain(summary: dict, directory: Path, root: Path, state: str) -> None:
    """After a run that did not succeed: the cause, the end of the step's log, what to do; ends with the exit code."""
    from pipelines.local import log_tail

    again = f"pixelis run --resume {directory.name}" + (
        "" if root == DEFAULT_ROOT.absolute() else f" --run-root {root}"
    )
    err = console(error=True)
    if state == "STOPPED":
        err.print(f"Stopped. Finished steps are kept; go on with: {again}", highlight=False)
        raise typer.Exit(130)
    failed = [row for row in summary["steps"] if row["status"] == "FAILED"]
    for row in failed:
        err.print(f"\nStep {row['name']} failed: {row['error']}", style="red", highlight=False, markup=False)
        tail = log_tail(directory, row["name"])
        if tail and not row["expected"]:
            err.print(f"End of {directory / 'logs' / (row['name'] + '.log')}:\n{tail}", highlight=False, markup=False)
        err.print(row["remedy"], highlight=False, markup=False)
    if failed or summary["status"] == "FAILED":
        if not failed:
            err.print(f"The run failed: {summary['error'] or 'see logs/pipeline.log'}", style="red", markup=False)
        err.print(f"Finished steps are kept; go on with: {again}", highlight=False)
        raise typer.Exit(6)


def check_step(until: str) -> None:
    """Refuse a step that does not exist."""
    if until and until not in ORDER:
        raise ConfigError(f"--until {until!r}: no such step; nothing was run.", remedy=f"Choose one of {ORDER}.")


def check_runner(runner: str) -> None:
    """Refuse a runner that does not exist."""
    from pipelines.local import RUNNERS

    if runner and runner not in RUNNERS:
        raise ConfigError(f"--runner {runner!r}: no such runner; nothing was run.", remedy=f"Choose one of {RUNNERS}.")


def check_engine(config: Any) -> None:
    """Refuse before a run's directory is made when no engine answers or an image is missing."""
    from pipelines.engine import check_images, engine

    client = engine()
    check_images(client, config)
    client.close()


app.command()(runs.status)


@app.command(name="compile")
def compile_(
    profile: Profile = "twin",
    sets: Sets = None,
    output: Annotated[Path | None, typer.Option(help="File to write; pixelis-<profile>.yaml here by default.")] = None,
) -> None:
    """Write the pipeline for Kubeflow.

    KFP's IR YAML of a profile, ready to upload in the Kubeflow UI.
    """
    from kfp import compiler

    from pipelines.config import compose
    from pipelines.training import build

    target = output or Path(f"pixelis-{profile}.yaml")
    if target.suffix not in (".yaml", ".yml") or target.is_dir():
        raise ConfigError(
            f"--output {target} does not end with .yaml, which Kubeflow's upload goes by; nothing was compiled.",
            remedy=f"For example: --output {target}.yaml",
        )
    config = compose(profile, sets or ())
    target.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(build(config), str(target))
    console().print(
        f"{target} ({target.stat().st_size:,} bytes, images {config.placement.image('sft')})", highlight=False
    )


@app.command("verify-determinism")
def verify_determinism(
    step: Annotated[str, typer.Argument(help="A training step: base_model, alignment, sft or rft.")],
    run: Annotated[str, typer.Option(help="Run whose inputs and section are used; the last one by default.")] = "",
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the step's section; repeatable.")
    ] = None,
    run_root: RunRoot = DEFAULT_ROOT,
    keep: Annotated[Path | None, typer.Option(help="New folder that keeps both results.")] = None,
) -> None:
    """Do a step twice and compare every byte.

    A training step of a finished run, deterministically, with the same inputs.
    """
    from pipelines.config import parse
    from pipelines.determinism import verify
    from pipelines.local import last_run

    directory = (run_root / run if run else last_run(run_root)).expanduser().absolute()
    changes = {}
    for item in sets or []:
        name, sign, value = item.partition("=")
        if not sign or not name:
            raise ConfigError(f"--set {item!r} is not of the form key=value; nothing was run.")
        changes[name] = parse(value, name)
    if keep and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise ConfigError(f"--keep {keep} is not a new folder; nothing was run.", remedy="Name another one.")
    out = console()
    verdict = verify(step, directory, changes, keep=keep, say=lambda text: out.print(text, highlight=False))
    counted = f"{verdict.num_files} files and {verdict.num_figures} figures"
    if verdict.difference:
        out.print(f"{step} is NOT deterministic: {verdict.difference}.", style="red", highlight=False)
        raise typer.Exit(6)
    out.print(f"{step} is deterministic: {counted} are the same in both executions.", highlight=False)


@app.command()
def doctor(run_root: RunRoot = DEFAULT_ROOT) -> None:
    """Say which profiles this machine fits.

    Versions, FFmpeg, cores, memory and GPU as well.
    """
    from pipelines.doctor import print_report

    if not print_report(console(), run_root):
        raise typer.Exit(5)


@app.command()
def mlflow(
    run_root: RunRoot = DEFAULT_ROOT,
    port: Annotated[int, typer.Option(help="Port of the page.", min=1, max=65535)] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Open the tracking UI of the runs here."""
    root = run_root.expanduser().absolute()
    store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
    if store.startswith("sqlite") and not (root / "mlflow.db").is_file():
        raise ConfigError(
            f"{root / 'mlflow.db'} does not exist: no run has been made there.", remedy="Start one with pixelis run."
        )
    page = f"http://{host}:{port}/#/experiments/1/runs" if store.startswith("sqlite") else f"http://{host}:{port}"
    console().print(f"{page} shows {store}; stop with Ctrl-C", highlight=False)
    check_free(host, port)
    # one worker and no job runners: this is one person's page, and each of them is a process that imports MLflow
    os.environ |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
    command = ["ui", "--backend-store-uri", store, "--host", host, "--port", str(port), "--workers", "1"]
    become([sys.executable, "-m", "mlflow", *command])


def check_free(host: str, port: int) -> None:
    """Refuse a port that somebody listens on."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise EnvironmentFault(
            f"cannot listen on {host}:{port} ({os.strerror(error.errno or 0)}), so the page was not opened.",
            remedy="Stop what listens there, or choose another --port.",
        ) from None


def become(command: list[str]) -> NoReturn:
    """Go on as another program: signals and the exit code are its own, and nothing is left behind when it ends."""
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606 - this interpreter


@ttrl_app.command("status")
def ttrl_status(
    run_root: RunRoot = DEFAULT_ROOT, url: Annotated[str, typer.Option(help="Ask this service instead.")] = ""
) -> None:
    """Show what it serves and has learned.

    Where the service has keys, $PIXELIS_API_KEY is sent.
    """
    import json

    from components.ttrl.control import status

    place = url or run_root.expanduser().absolute() / "ttrl"
    console().print_json(json.dumps(status(place, key=os.environ.get("PIXELIS_API_KEY", ""))))


@ttrl_app.command("stop")
def ttrl_stop(run_root: RunRoot = DEFAULT_ROOT) -> None:
    """Stop the service of this run root.

    Its experiences and adapters are kept.
    """
    from components.ttrl.control import stop

    stopped = stop(run_root.expanduser().absolute() / "ttrl")
    console().print("stopped" if stopped else "no service was running")


@ttrl_app.command("serve")
def ttrl_serve(
    model: Annotated[Path, typer.Argument(help="Folder of a promoted model (the promotion step's output).")],
    run_root: RunRoot = DEFAULT_ROOT,
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8400,
) -> None:
    """Serve a promoted model in the foreground."""
    if not (model / "promotion.json").is_file():
        raise InputError(
            f"{model} holds no promoted model (no promotion.json), so the service was not started.",
            remedy="Name the promotion step's output: runs/*/artifacts/*/promotion/model",
        )
    state = run_root.expanduser().absolute() / "ttrl"
    become([sys.executable, "-m", "components.ttrl", "--model", str(model), "--state", str(state), "--port", str(port)])


cluster_commands.add_to(app)


def main() -> None:
    """Entry point: expected failures are printed without a traceback."""
    try:
        app()
    except PixelisError as error:
        err = console(error=True)
        err.print(f"error: {error.message}", style="red", highlight=False, markup=False)
        if error.remedy:
            err.print(error.remedy, highlight=False, markup=False)
        sys.exit(error.exit_code)
    except OSError as error:
        if not error.filename and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise  # not about a file somebody named, nor about a disk
        where = error.filename or "standard output or a file"
        text = f"error: {where}: {(error.strerror or type(error).__name__).lower()}; the command ended there."
        console(error=True).print(text, style="red", highlight=False, markup=False)
        sys.exit(EnvironmentFault.exit_code)

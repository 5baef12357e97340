"""Runs the pipeline on this machine through `kfp.local`, resumably.

A run's directory `<run-root>/<run-id>` holds `request.json` (what was asked), `steps/` (records), `logs/`, `progress/`,
`pictures/`, `work/` (checkpoints of unfinished steps), `artifacts/`, `summary.json` and `summary.md`. The cache, the
tracking store and the service's state are shared by all runs of a run root.

Guarantees: a finished step is never run again while its section, its code and its inputs are the same and its artifact
is whole; a run that ends in any way leaves a summary.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import psutil

from components.shared.runtime.artifacts import RECORD, read_json, write_json
from components.shared.runtime.errors import ArtifactError, ConfigError, EnvironmentFault
from components.shared.runtime.reproducibility import child_environment
from pipelines.config import compose, git_sha
from pipelines.steps import STEPS

REQUEST = "request.json"
RUNNERS = ("subprocess", "docker")
PATHS = (
    "recordings.path",
    "base_model.hub.path",
    "trajectories.teacher.cache",
    "ttrl.keys_file",
    "ttrl.state_dir",
)
"""Keys of the configuration that name a file or folder of this machine."""


@dataclass(frozen=True)
class Request:
    """What a run was asked to do; kept in the run's directory, so that a resumed run does the same."""

    profile: str = "twin"
    overrides: tuple[str, ...] = ()
    until: str = ""
    runner: str = "subprocess"


def new_run_id() -> str:
    """Time of the start and four random hex digits."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def prepare_root(root: Path) -> Path:
    """Check that runs can be kept under `root`.

    Raises:
        EnvironmentFault: the folder cannot be made or written.
        ConfigError: its path contains `python3`, which the local runner would rewrite.
    """
    root = root.expanduser().absolute()
    if "python3" in str(root):
        raise ConfigError(
            f"run root {root} contains 'python3', which kfp's local runner replaces in every command, so steps would "
            "write elsewhere.",
            remedy="Choose another --run-root.",
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".writable-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise EnvironmentFault(
            f"run root {root} cannot be written ({error.strerror}), so no run can be kept there.",
            remedy="Choose another --run-root or change its owner.",
        ) from error
    return root


def check_tracking(root: Path) -> str:
    """The tracking store's address: MLFLOW_TRACKING_URI, else a database in the run root.

    Raises:
        EnvironmentFault: the server does not answer.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        os.environ["PIXELIS_MLFLOW_ARTIFACTS"] = (root / "mlartifacts").as_uri()
        make_store(root / "mlflow.db")
        return f"sqlite:///{root / 'mlflow.db'}"
    if urlsplit(uri).scheme in ("http", "https"):
        try:
            with urllib.request.urlopen(uri.rstrip("/") + "/health", timeout=5):  # noqa: S310 - scheme checked above
                pass
        except (urllib.error.URLError, OSError) as error:
            raise EnvironmentFault(
                f"the tracking server {uri} does not answer ({error}), so nothing this run does could be traced.",
                remedy="Start it, correct MLFLOW_TRACKING_URI, or unset it to use the run root's own store.",
            ) from error
    return uri


def make_store(path: Path) -> None:
    """Make the run root's tracking store, whole or not at all.

    A step that was killed while MLflow made its tables left half of them, and no later run could be tracked there.

    Raises:
        EnvironmentFault: MLflow cannot make it.
    """
    if path.exists():
        return
    being_made = path.with_name(f".{path.name}.{os.getpid()}")
    make = "import sys; from mlflow import MlflowClient; MlflowClient(sys.argv[1]).search_experiments()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", make, f"sqlite:///{being_made}"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise EnvironmentFault(
                f"the tracking store {path} cannot be made ({done.stderr.strip()[-200:]}); nothing was run.",
                remedy="Look at the folder's rights and space, or set MLFLOW_TRACKING_URI to a server.",
            )
        with contextlib.suppress(FileExistsError):  # another run was first
            os.link(being_made, path)
    finally:
        being_made.unlink(missing_ok=True)


def check_port(config: Any, root: Path) -> None:
    """Refuse before any work when the service's port is taken by somebody else.

    Raises:
        EnvironmentFault: the port is in use and not by the service that this run root would replace.
    """
    if not config.ttrl.deploy or not config.ttrl.port:
        return
    try:
        socket.create_connection((config.ttrl.host, config.ttrl.port), timeout=1).close()
    except OSError:  # nobody listens; an address that is not this machine's is refused by the service itself
        return
    from components.ttrl.control import is_running, read_record

    record = read_record(root / "ttrl")
    if record is None or not is_running(record):
        raise EnvironmentFault(
            f"port {config.ttrl.port} on {config.ttrl.host} is taken by another program; the service could not start.",
            remedy="Stop it, choose another port with --set ttrl.port=…, or leave the service out with "
            "--set ttrl.deploy=false.",
        )


@contextlib.contextmanager
def owned(directory: Path) -> Iterator[IO[str]]:
    """Hold the run's lock: two processes never work on one run."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "run.lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise EnvironmentFault(
                f"run {directory.name} is being worked on by process {file.read().strip() or 'unknown'}.",
                remedy="Wait for it or stop it, then resume.",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file


def absolute_paths(overrides: list[str]) -> list[str]:
    """Overrides of PATHS made absolute, so that a resumed run finds them from any folder and containers see them."""
    found = []
    for item in overrides:
        key, _, path = item.partition("=")
        local_path = key.strip() in PATHS and path and "://" not in path
        found.append(f"{key}={Path(path).expanduser().absolute()}" if local_path else item)
    return found


def new_run(root: Path, request: Request) -> Path:
    """Make a new run's directory and keep its request there."""
    directory = root / new_run_id()
    directory.mkdir(parents=True)
    write_json(directory / REQUEST, request.__dict__)
    return directory


def earlier_request(root: Path, run: str) -> Request:
    """What an earlier run was asked to do.

    Raises:
        ConfigError: the run does not exist; names those that do.
    """
    path = root / run / REQUEST
    if not path.is_file():
        known = sorted(path.parent.name for path in root.glob(f"*/{REQUEST}"))
        raise ConfigError(
            f"run {run!r} does not exist under {root}; nothing was done.",
            remedy=f"Choose one of {known[-5:]}." if known else "Start one with pixelis run.",
        )
    value = read_json(path)
    return Request(**value | {"overrides": tuple(value["overrides"])})


def last_run(root: Path) -> Path:
    """The newest run under a run root.

    Raises:
        ConfigError: there is none.
    """
    found = sorted(path.parent for path in root.expanduser().absolute().glob(f"*/{REQUEST}"))
    if not found:
        raise ConfigError(f"no run has been made under {root}.", remedy="Start one with pixelis run.")
    return found[-1]


def remove_unfinished(directory: Path) -> None:
    """Remove what killed steps were writing: staged folders that never got their artifact's name."""
    for path in list((directory / "artifacts").rglob(".*.staged-*")):
        shutil.rmtree(path, ignore_errors=True)


def archive_attempt(directory: Path) -> None:
    """Move the records of an earlier attempt aside, so that what this attempt does can be told apart."""
    if (directory / "steps").is_dir():
        attempts = directory / "attempts"
        attempts.mkdir(exist_ok=True)
        (directory / "steps").rename(attempts / f"{len(list(attempts.iterdir())):03d}")
    for name in ("cache_hits.json", "summary.json", "summary.md"):
        (directory / name).unlink(missing_ok=True)
    for path in (directory / "progress").glob("*.json"):
        path.unlink()


def export_environment(directory: Path, root: Path, tracking_uri: str, config: Any) -> None:
    """What steps read from their environment; never part of a cache key."""
    # Idle OpenMP threads must sleep, not spin: two processes that spin on two cores slow each other several times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.update(
        PIXELIS_RUN_ID=directory.name,
        PIXELIS_RUN_DIR=str(directory),
        PIXELIS_WORK_DIR=str(directory / "work"),
        PIXELIS_STATE_DIR=str(root),
        PIXELIS_RUNNER_PID=str(os.getpid()),
        PIXELIS_GIT_SHA=git_sha(),
        MLFLOW_TRACKING_URI=tracking_uri,
        **child_environment(seed=config.run.seed, deterministic=config.run.deterministic),
    )


def run_pipeline(directory: Path, root: Path, request: Request) -> None:
    """Run the request's pipeline to its end; the caller holds the run's lock.

    Raises:
        RuntimeError: a step failed; the cause stands in the step's record.
    """
    from kfp import local

    from pipelines.training import build, form_defaults

    config = run_config(request)
    write_json(directory / "config.json", config.model_dump(mode="json"))
    cache = root / "cache"
    with runner_of(request, directory, root, config) as runner:
        local.init(runner, pipeline_root=str(directory / "artifacts"), enable_caching=True, cache_root=str(cache))
        install_cache(cache, directory)
        pipeline = build(config, until=request.until, retries=False)
        with warnings.catch_warnings(), quiet(directory / "logs" / "pipeline.log"):
            warnings.simplefilter("ignore")
            pipeline(**form_defaults(config))


def run_config(request: Request) -> Any:
    """The configuration of a request.

    kfp's cache key holds the image's name. Processes have no image, and their code is tracked by digest: there a commit
    alone must not repeat a step.
    """
    tag = [] if request.runner == "docker" else ["placement.tag=local"]
    return compose(request.profile, [*request.overrides, *tag], {})


@contextlib.contextmanager
def runner_of(request: Request, directory: Path, root: Path, config: Any) -> Iterator[Any]:
    """KFP's runner for the request: processes of this interpreter, or containers."""
    from kfp import local

    if request.runner == "docker":
        from pipelines.containers import containers

        with containers(directory, root, config) as runner:
            yield runner
    else:
        yield local.SubprocessRunner(use_venv=False)


def install_cache(root: Path, directory: Path) -> None:
    """Make kfp's local cache tell which artifacts it handed out, and refuse damaged ones."""
    from kfp.local import cache

    from components.shared.runtime.records import read_artifact_record

    hits: list[str] = []

    class CheckedCache(cache.LocalCache):
        """kfp's cache, which by itself only checks that a path exists."""

        def get(self, key: str) -> dict[str, Any] | None:
            outputs = super().get(key)
            if outputs is None:
                return None
            paths = [Path(item.uri) for item in outputs.values() if hasattr(item, "uri")]
            folders = [path for path in paths if (path / RECORD).is_file() or path.is_dir()]
            try:
                for path in folders:
                    read_artifact_record(path)
            except ArtifactError as error:
                print(f"cache entry {key[:12]} is not used: {error}")
                return None
            hits.extend(str(path) for path in folders)
            write_json(directory / "cache_hits.json", hits)
            return outputs

    cache._cache_singleton = CheckedCache(str(root))
    cache._cache_singleton_root = str(root)


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Send what kfp prints to a log file; its logging follows, since it writes to the current sys.stderr."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(log, "a", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield


def fallback_summary(directory: Path, request: Request, state: str) -> dict[str, Any]:
    """Write the summary here when the exit step could not (interrupted, or the runner itself failed)."""
    from components.finish.summarize import finish_run

    with quiet(directory / "logs" / "finish.log"):
        return finish_run([step.name for step in STEPS], request.profile, state=state)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal stop a run as Ctrl-C does: its steps end, and it leaves a summary.

    Ctrl-C reaches the steps as well; these two reach this process only, so it tells its steps.
    """

    def stop(number: int, frame: Any) -> None:
        mine = os.getsid(0)  # a service that is being deployed has a session of its own and stays
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getsid(process.pid) == mine:
                    process.terminate()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def load_summary(directory: Path) -> dict[str, Any] | None:
    """The run's summary, None where the exit step did not get to write it."""
    path = directory / "summary.json"
    return json.loads(path.read_text()) if path.is_file() else None


def log_tail(directory: Path, step: str, lines: int = 20) -> str:
    """The last lines of a step's log."""
    path = directory / "logs" / f"{step}.log"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.is_file() else ""

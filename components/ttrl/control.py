"""Client side of a running service: where it is, how it does, how to stop it. No torch, no server code.

Role: what `pixelis ttrl status|stop` and the deployment call. The service writes `<state>/service.json` when it
listens and removes it when it ends.

Guarantee: `stop` only ever signals the process that wrote the record: its start time is compared, so a reused process
number is left alone. A service in a container is stopped through the engine, by the container's id.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from components.shared.runtime.artifacts import read_json, write_json
from components.shared.runtime.errors import ArtifactError, EnvironmentFault
from components.ttrl.config import TtrlConfig

RECORD = "service.json"
CONTAINER = "PIXELIS_CONTAINER"
"""Variable that tells a service the name of the container it runs in."""
SECOND_RECORD = "PIXELIS_SERVICE_RECORD"
"""Variable that names a file where the record is written too: an image's health check cannot know the state folder."""


def default_state_dir(config: TtrlConfig) -> Path:
    """`ttrl.state_dir`, else $PIXELIS_STATE_DIR, else the user's state folder."""
    if config.state_dir:
        return Path(config.state_dir).expanduser().absolute()
    if os.environ.get("PIXELIS_STATE_DIR"):
        return Path(os.environ["PIXELIS_STATE_DIR"]).expanduser().absolute() / "ttrl"
    base = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(base) / "pixelis" / "ttrl"


def write_record(state: Path, *, host: str, port: int, model: Path | None) -> None:
    """Say in the state folder where this process listens."""
    shown = f"[{host}]" if ":" in host else {"0.0.0.0": "127.0.0.1", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    record = {
        "url": f"http://{shown}:{port}",
        "pid": os.getpid(),
        "container": os.environ.get(CONTAINER),
        "started": psutil.Process().create_time(),
        "model": str(model.absolute()) if model else None,
        "state_dir": str(state.absolute()),
    }
    write_json(state / RECORD, record)
    if os.environ.get(SECOND_RECORD):
        write_json(Path(os.environ[SECOND_RECORD]), record)


def remove_record(state: Path) -> None:
    """Remove the record, and its second copy, where they are this process's."""
    mine = (os.getpid(), os.environ.get(CONTAINER))
    second = os.environ.get(SECOND_RECORD)
    for path in [state / RECORD, *([Path(second)] if second else [])]:
        record = read_record(path)
        if record is not None and (record.get("pid"), record.get("container")) == mine:
            path.unlink(missing_ok=True)


def read_record(place: Path) -> dict[str, Any] | None:
    """The record in a state folder, a deployment's output folder or a record file; None where there is none."""
    path = place / RECORD if place.is_dir() else place
    if not path.exists():
        return None
    try:
        return read_json(path)
    except ArtifactError:
        return None


def is_running(record: dict[str, Any]) -> bool:
    """Whether the service that wrote the record still runs."""
    return bool(container_of(record) if record.get("container") else process_of(record))


def process_of(record: dict[str, Any]) -> psutil.Process | None:
    """The live process of this machine that wrote the record; None for a service in a container."""
    try:
        if record.get("container"):  # its process number is the container's own
            return None
        process = psutil.Process(int(record["pid"]))
        if abs(process.create_time() - float(record["started"])) > 2 or process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process
    except (psutil.NoSuchProcess, KeyError, ValueError, TypeError):
        return None


def container_of(record: dict[str, Any]) -> Any:
    """The running container of a record, None where it is gone or has ended.

    Raises:
        EnvironmentFault: the engine does not answer, so nobody can tell.
    """
    import docker
    from docker.errors import DockerException, NotFound

    try:
        container = docker.from_env().containers.get(record["container"])
    except NotFound:
        return None
    except DockerException as error:
        raise EnvironmentFault(
            f"the service runs in container {record['container']}, and no container engine answers ({error}).",
            remedy="Start the engine or set DOCKER_HOST to the one it was started with.",
        ) from error
    return container if container.status == "running" else None


def status(place: Path | str, *, key: str = "", timeout_s: float = 10.0) -> dict[str, Any]:
    """What `GET /status` says.

    Args:
        place: A URL, or a folder or file that holds a service record.
        key: API key, where the service has keys.

    Raises:
        EnvironmentFault: nothing answers there.
    """
    url = _url(place)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.get(f"{url}/status", headers=headers, timeout=timeout_s, trust_env=False)
    except httpx.HTTPError as error:
        raise EnvironmentFault(
            f"no service answers at {url} ({type(error).__name__}).",
            remedy="Start one with `pixelis ttrl serve`, or look at the service's log.",
        ) from None
    if answer.status_code in (401, 403):
        raise EnvironmentFault(
            f"the service at {url} wants an API key (it answers {answer.status_code}), so its status is not told.",
            remedy="Set PIXELIS_API_KEY to a key with the role viewer or higher.",
        )
    if answer.status_code != 200:
        raise EnvironmentFault(f"{url}/status answers {answer.status_code}: {answer.text[:200]}")
    return answer.json()


def stop(place: Path, *, timeout_s: float = 30.0) -> bool:
    """Stop the service a record names: SIGTERM, then SIGKILL after `timeout_s`.

    Returns:
        True where a running service was stopped, False where none ran.
    """
    record = read_record(place)
    if record is None:
        return False
    container = container_of(record) if record.get("container") else None
    if container is not None:
        container.stop(timeout=int(timeout_s))
    elif not end_process(record, timeout_s):
        return False
    state = Path(record["state_dir"])
    left = read_record(state)
    if left is not None and left.get("pid") == record["pid"]:
        (state / RECORD).unlink(missing_ok=True)
    return True


def end_process(record: dict[str, Any], timeout_s: float) -> bool:
    """SIGTERM the record's process and wait; SIGKILL after `timeout_s`. False where it does not run."""
    process = process_of(record)
    if process is None:
        return False
    process.terminate()
    deadline = time.monotonic() + timeout_s
    while process_of(record) is not None:
        if time.monotonic() > deadline:
            process.kill()
            process.wait(10)
            break
        time.sleep(0.05)
    return True


def _url(place: Path | str) -> str:
    if isinstance(place, str) and place.startswith(("http://", "https://")):
        return place.rstrip("/")
    record = read_record(Path(place))
    if record is None:
        raise EnvironmentFault(
            f"{place} holds no service record, so no service is known there.",
            remedy="Give the service's URL or its state folder, or start one with `pixelis ttrl serve`.",
        )
    return str(record["url"])

"""Runs the steps of a local run in containers: KFP's DockerRunner, told how each container is to be started.

Role: `pixelis run --runner docker`. The images are those a cluster would run (`make images`); everything else is as
with processes: the same records, cache, tracking store and summary, under the same paths, owned by the same user.

Guarantees: a container sees the run root, the folders that the configuration names (read-only, except a state or cache
folder) and nothing else of this machine's files; its own file system is read-only, it has no capabilities; it ends with
the runner, or at the latest when its run is resumed. Not guaranteed: a network of its own. Steps use this machine's, as
processes would: a tracking server, a teacher model and the service listen on loopback. See docs/decisions/0007.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.ttrl.launcher_container import DESK
from pipelines.engine import LABEL, bind, check_images, engine, remove_containers
from pipelines.service_container import ServiceDesk

PASSED = re.compile(r"(PIXELIS|MLFLOW|HF|AWS|OMP)_|(PYTHONHASHSEED|CUBLAS_WORKSPACE_CONFIG|(https?|no)_proxy)$", re.I)
"""Variables of this environment that steps receive, as a process of the runner would."""
OWN = {"PIXELIS_CONFIG", "PIXELIS_GIT_SHA", "PIXELIS_IMAGE", "PIXELIS_RUNNER_PID", "PIXELIS_PROGRESS_FILE"}
"""Those that the image sets itself, or that mean nothing in a container."""
WRITTEN = ("state_dir", "cache")
"""Keys of the configuration that name a folder which a step writes."""
SHM = "1g"


def container_arguments(client: Any, root: Path, config: Any, run: str) -> dict[str, Any]:
    """How every container of a run is started, in the words of the docker SDK's `containers.run`."""
    from docker.types import DeviceRequest

    facts = set(client.info().get("SecurityOptions") or [])
    hub = Path(os.environ.get("HF_HOME") or root / "hub").expanduser().absolute()
    hub.mkdir(parents=True, exist_ok=True)  # downloads must not land in the containers' memory
    arguments: dict[str, Any] = {
        "user": caller(rootless="name=rootless" in facts),
        "network_mode": "host",
        "read_only": True,
        "tmpfs": {"/tmp": "mode=1777,exec"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "init": True,
        "shm_size": SHM,
        "environment": environment(config) | {"HF_HOME": str(hub)},
        "mounts": [bind(root), *(bind(path, written=written) for path, written in named_paths(config, root, hub))],
        "labels": {LABEL: run},
    }
    if "name=userns" in facts:  # remapped user numbers would not be the caller's
        arguments["userns_mode"] = "host"
    if "name=selinux" in facts:  # relabelling the caller's folders would lock other programs out of them
        arguments["security_opt"].append("label=disable")
    if config.placement.variant == "gpu":
        arguments["device_requests"] = [DeviceRequest(count=-1, capabilities=[["gpu"]])]
    return arguments


def caller(*, rootless: bool) -> str:
    """User and group whose files a container writes as the caller's. A rootless engine's root is the caller."""
    return "0:0" if rootless else f"{os.getuid()}:{os.getgid()}"


def environment(config: Any) -> dict[str, str]:
    """The variables that containers receive."""
    key = config.trajectories.teacher.key_variable
    return {
        name: value
        for name, value in os.environ.items()
        if name == key or (PASSED.match(name) and name not in OWN and "__" not in name)
    }


def named_paths(config: Any, root: Path, hub: Path) -> list[tuple[Path, bool]]:
    """Files and folders outside the run root that steps need: (path, whether they write it)."""
    found = {} if hub.is_relative_to(root) else {hub: True}
    for key, text in texts(config.model_dump(mode="json")):
        path = Path(text)
        if path.is_absolute() and path.exists() and not path.is_relative_to(root):
            written = key in WRITTEN
            found[path] = found.get(path, False) or written
    return sorted(found.items())


def texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a nested value, with the key it stands under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from texts(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item, key)


@contextlib.contextmanager
def containers(directory: Path, root: Path, config: Any) -> Iterator[Any]:
    """The runner for `kfp.local.init`; when the block ends, however it ends, no step's container is left.

    Raises:
        EnvironmentFault: no engine, or an image is missing.
    """
    from kfp import local
    from kfp.local import docker_task_handler

    client = engine()
    check_images(client, config)
    run = directory.name
    remove_containers(client, run)  # those of an earlier attempt whose runner was killed
    desk = directory / "service"
    desk.mkdir(exist_ok=True)
    (directory / "artifacts").mkdir(exist_ok=True)  # the engine would make it, as root
    arguments = container_arguments(client, root, config, run)
    arguments["environment"] |= {DESK: str(desk)}
    docker_task_handler.run_docker_container = run_container
    try:
        with ServiceDesk(desk, client, config.placement.image("ttrl"), arguments, config):
            yield local.DockerRunner(**arguments)
    finally:
        remove_containers(client, run)
        client.close()


def run_container(client: Any, image: str, command: list[str], volumes: dict[str, Any], **arguments: Any) -> int:
    """Run a container to its end; returns its exit code.

    In place of KFP's own, which lets the engine remove the container and takes one that is gone before it was asked
    for its exit code for a success, and which leaves it running when the runner is interrupted.
    """
    container = client.containers.run(image, command, volumes=volumes, detach=True, **arguments)
    try:
        for line in container.logs(stream=True):
            print(line.decode(errors="replace"), end="")
        code = int(container.wait()["StatusCode"])
        if code:  # 137: killed, from outside or for memory
            print(f"The container of {image} ended with exit code {code}.")
        return code
    finally:
        container.remove(force=True)

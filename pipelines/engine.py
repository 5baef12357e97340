"""The container engine of this machine: its client, the images it must hold, what marks and mounts a container.

Below `containers` (the steps') and `service_container` (the service's), which both start containers on it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from components.shared.runtime.errors import EnvironmentFault
from pipelines.steps import STEPS

LABEL = "pixelis.run"
"""Container label that names the run of a step; the service's containers have `<LABEL>.service`."""


def engine() -> Any:
    """A client of the container engine.

    Raises:
        EnvironmentFault: none answers.
    """
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        raise EnvironmentFault(
            f"no container engine answers ({error}), so no step could be started.",
            remedy="Start Docker, set DOCKER_HOST to its socket, or leave --runner docker out.",
        ) from error
    return client


def check_images(client: Any, config: Any) -> None:
    """Refuse before any work when an image of a step is missing.

    Raises:
        EnvironmentFault: names the first image that the engine does not have.
    """
    from docker.errors import ImageNotFound

    for image in sorted({config.placement.image(step.name) for step in STEPS}):
        try:
            client.images.get(image)
        except ImageNotFound:
            raise EnvironmentFault(
                f"the engine has no image {image}; nothing was run.",
                remedy=f"Build this commit's images (make images VARIANT={config.placement.variant}), or name others "
                "with --set placement.tag=… and --set placement.registry=…",
            ) from None


def bind(path: Path, *, written: bool = True) -> Any:
    """A folder or file that a container sees under the same path."""
    from docker.types import Mount

    return Mount(str(path), str(path), type="bind", read_only=not written)


def remove_containers(client: Any, run: str) -> None:
    """Remove the containers of a run's steps, running or not. The service's is not one of them."""
    from docker.errors import NotFound

    for container in client.containers.list(all=True, filters={"label": f"{LABEL}={run}"}):
        with contextlib.suppress(NotFound):
            container.remove(force=True)

"""Starts and watches the service's container for the deployment step, which has no engine of its own.

Role: the runner's end of `components.ttrl.launcher_container`: reads the step's orders from a folder and writes what is
so. The service outlives the run; `pixelis ttrl status|stop` find it by its record.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from components.shared.runtime.artifacts import read_json, write_json
from components.shared.runtime.errors import ArtifactError, PixelisError
from components.ttrl.control import CONTAINER, stop
from components.ttrl.launcher_container import DESK, ORDER, RUNNING, STATE
from pipelines.engine import LABEL, bind

RUNS_ONLY = {DESK, "PIXELIS_RUN_DIR", "PIXELIS_RUN_ID", "PIXELIS_WORK_DIR", "PIXELIS_STATE_DIR"}
"""Variables of the run that must not reach a service which outlives it."""
LOGGED = 'exec "$@" >> "$0" 2>&1'
"""Shell text: the service's output goes to its log file, where a process of this machine would write it too."""


class ServiceDesk:
    """Answers orders until the block ends."""

    def __init__(self, folder: Path, client: Any, image: str, arguments: dict[str, Any], config: Any) -> None:
        self.folder, self.client, self.image, self.config = folder, client, image, config
        self.arguments = arguments
        self.seen = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="service-desk")

    def __enter__(self) -> ServiceDesk:
        for name in (ORDER, STATE):  # of an earlier attempt
            (self.folder / name).unlink(missing_ok=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        state: dict[str, Any] | None = None
        while not self._stop.wait(0.2):
            with contextlib.suppress(ArtifactError, OSError):  # an order that is being written is read next time
                order = read_json(self.folder / ORDER) if (self.folder / ORDER).is_file() else None
                if order and order["id"] != self.seen:
                    self.seen = order["id"]
                    state = self.follow(order)
                    write_json(self.folder / STATE, state)
                elif state and state["status"] == RUNNING and self.status_of(state["container"]) != RUNNING:
                    state = state | {"status": "ended"}
                    write_json(self.folder / STATE, state)

    def follow(self, order: dict[str, Any]) -> dict[str, Any]:
        """Do what an order says; returns what is so afterwards."""
        from docker.errors import DockerException

        name = f"pixelis-ttrl-{order['id'][:8]}"
        answer = {"id": order["id"], "status": "ended", "container": name, "error": ""}
        try:
            stop(Path(order["state"]))
            if order["wanted"]:
                self.start(name, Path(order["model"]), Path(order["state"]))
                answer["status"] = RUNNING
        except (PixelisError, DockerException, OSError) as error:  # OSError: the engine's connection, a full disk
            answer["error"] = str(error)
        return answer

    def start(self, name: str, model: Path, state: Path) -> None:
        """Start the service: it sees its model, its state and the keys, and writes only the state."""
        options = {key: value for key, value in self.arguments.items() if key not in ("mounts", "labels")}
        options["environment"] = {
            key: value for key, value in options["environment"].items() if key not in RUNS_ONLY
        } | {CONTAINER: name}
        keys = self.config.ttrl.keys_file
        mounts = [bind(state), bind(model, written=False)]
        mounts += [bind(Path(keys).expanduser().absolute(), written=False)] if keys else []
        arguments = ["--model", str(model), "--state", str(state), "--config", str(state / "config.json")]
        self.client.containers.run(
            self.image,
            ["sh", "-c", LOGGED, str(state / "service.log"), "python3", "-m", "components.ttrl", *arguments],
            name=name,
            mounts=mounts,
            labels={f"{LABEL}.service": str(state)},
            detach=True,
            auto_remove=True,
            **options,
        )

    def status_of(self, name: str) -> str:
        """The container's status as the engine has it; `gone` where it was removed."""
        from docker.errors import NotFound

        try:
            return str(self.client.containers.get(name).status)
        except NotFound:
            return "gone"

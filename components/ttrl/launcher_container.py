"""The launcher of a deployment step that itself runs in a container: it asks the runner, which alone holds the engine.

Role: a step with the engine's socket would be as mighty as the machine's root. So the step writes what it wants into a
folder that it shares with the runner (`pipelines.service_container`), and the runner writes there what is so:

    order.json    by the step: {"id", "wanted": bool, "model", "state"}
    state.json    by the runner: {"id" of the order it speaks of, "status", "container", "error"}

Guarantee: an order is answered under its own id, so the answer to an earlier run's is never taken for it.
"""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.runtime.artifacts import read_json, write_json
from components.shared.runtime.errors import EnvironmentFault, StepError
from components.ttrl.config import TtrlConfig
from components.ttrl.control import RECORD, read_record

DESK = "PIXELIS_SERVICE_DESK"
"""Variable that names the shared folder; the runner sets it."""
ORDER, STATE = "order.json", "state.json"
RUNNING = "running"


@dataclass
class ServiceContainer:
    """A service that the runner started (the `Running` of the launcher's seam)."""

    desk: Path
    order: dict[str, Any]
    log: str

    def answer(self) -> dict[str, Any] | None:
        """What the runner says about this order, None before it said anything."""
        path = self.desk / STATE
        found = read_json(path) if path.is_file() else None
        return found if found and found["id"] == self.order["id"] else None

    def record(self) -> dict[str, Any] | None:
        """The service's record, if this container wrote it."""
        found, answer = read_record(Path(self.order["state"])), self.answer()
        return found if found and answer and found.get("container") == answer["container"] else None

    def is_alive(self) -> bool:
        """Whether the container runs."""
        answer = self.answer()
        return answer is not None and answer["status"] == RUNNING

    def log_tail(self, num_lines: int = 15) -> str:
        """The last lines of the log file."""
        text = Path(self.log).read_text(errors="replace") if Path(self.log).exists() else ""
        return "\n".join(text.splitlines()[-num_lines:])

    def settle(self) -> str:
        """Nothing to clear: `replace` overwrote the configuration of the container before."""
        return ""

    def kill(self) -> None:
        """Ask for its end and wait for it."""
        self.order = self.order | {"id": uuid.uuid4().hex, "wanted": False}
        write_json(self.desk / ORDER, self.order)
        self.wait(60.0)
        (Path(self.order["state"]) / RECORD).unlink(missing_ok=True)

    def wait(self, timeout_s: float) -> dict[str, Any]:
        """The runner's answer to the order.

        Raises:
            EnvironmentFault: the runner does not answer.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            answer = self.answer()
            if answer is not None:
                return answer
            time.sleep(0.1)
        raise EnvironmentFault(
            f"the runner did not answer within {timeout_s:.0f} s in {self.desk}, so no service was started.",
            remedy="Resume the run: a runner that is alive reads that folder.",
        )


@dataclass(frozen=True)
class ContainerLauncher:
    """Services as containers beside the step's own."""

    desk: Path
    timeout_s: float = 120.0

    def replace(self, config: TtrlConfig, model: Path, state: Path) -> ServiceContainer:
        """Ask the runner to stop the service of this state folder, if one runs, and to start another.

        Raises:
            EnvironmentFault: the runner does not answer.
            StepError: it answers that the container could not be started.
        """
        state.mkdir(parents=True, exist_ok=True)
        write_json(state / "config.json", config.model_dump(mode="json"))
        order = {"id": uuid.uuid4().hex, "wanted": True, "model": str(model.absolute()), "state": str(state)}
        running = ServiceContainer(self.desk, order, str(state / "service.log"))
        write_json(self.desk / ORDER, order)
        answer = running.wait(self.timeout_s)
        if answer["error"]:
            raise StepError(f"the service's container was not started: {answer['error']}")
        return running


def from_environment() -> ContainerLauncher | None:
    """The launcher of a step in a container that the local runner started, None elsewhere."""
    desk = os.environ.get(DESK)
    return ContainerLauncher(Path(desk)) if desk else None

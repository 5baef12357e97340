"""Where the service is started: one interface, so that a cluster can take the place of this machine.

Role: `deploy` asks a `Launcher` to replace whatever serves a state folder and waits for the `Running` it gets back.
`LocalLauncher` starts a detached process: a session of its own, every descriptor in a log file, so that it outlives the
pipeline run that started it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from components.shared.runtime.artifacts import write_json
from components.ttrl.config import TtrlConfig
from components.ttrl.control import read_record, stop

PRIVATE = ("PIXELIS_RUNNER_PID", "PIXELIS_PROGRESS_FILE")
"""Variables of the pipeline step that must not reach a process which outlives it."""


class Running(Protocol):
    """A service that was started."""

    log: str

    def record(self) -> dict[str, Any] | None:
        """The service record once it listens."""

    def is_alive(self) -> bool:
        """Whether it still runs."""

    def log_tail(self, num_lines: int = 15) -> str:
        """The end of its log."""

    def settle(self) -> str:
        """It has proved itself: clear what only services before it needed; returns what a person should know of it."""

    def kill(self) -> None:
        """End it now."""


class Launcher(Protocol):
    """Starts services."""

    def replace(self, config: TtrlConfig, model: Path, state: Path) -> Running:
        """Stop the service of this state folder, if one runs, and start another."""


@dataclass
class LocalProcess:
    """A service process of this machine."""

    process: subprocess.Popen[bytes]
    state: Path
    log: str

    def record(self) -> dict[str, Any] | None:
        """The record, if it is this process's."""
        found = read_record(self.state)
        return found if found is not None and found.get("pid") == self.process.pid else None

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def log_tail(self, num_lines: int = 15) -> str:
        """The last lines of the log file."""
        text = Path(self.log).read_text(errors="replace") if Path(self.log).exists() else ""
        return "\n".join(text.splitlines()[-num_lines:])

    def settle(self) -> str:
        """Nothing to clear: `replace` overwrote the configuration of the process before."""
        return ""

    def kill(self) -> None:
        """SIGTERM, then SIGKILL."""
        if self.is_alive():
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        with contextlib.suppress(FileNotFoundError):
            (self.state / "service.json").unlink()


class LocalLauncher:
    """Detached processes of this machine."""

    def replace(self, config: TtrlConfig, model: Path, state: Path) -> LocalProcess:
        """Stop the previous service of this state folder and start one for `model`."""
        state.mkdir(parents=True, exist_ok=True, mode=0o700)  # questions and frames of people at work
        stop(state)
        write_json(state / "config.json", config.model_dump(mode="json"))
        log = state / "service.log"
        arguments = ["--model", str(model.absolute()), "--state", str(state), "--config", str(state / "config.json")]
        environment = {key: value for key, value in os.environ.items() if key not in PRIVATE}
        with open(log, "ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "components.ttrl", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                close_fds=True,
                env=environment,
                cwd=state,
            )
        return LocalProcess(process, state, str(log))


def launcher_here() -> Launcher:
    """The cluster's launcher in a pod, the runner's in a container of a local run, else this machine's."""
    from components.ttrl import launcher_container, launcher_kubernetes

    return launcher_kubernetes.from_environment() or launcher_container.from_environment() or LocalLauncher()

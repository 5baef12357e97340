"""A child process that answers lines: for work that may crash, hang or eat memory without taking its parent along.

`LineChild` is the side that starts it; `serve` runs inside. A module that does such work calls `serve(answer)` when it
is run as `python -m <module>`, and answers each line of standard input with one line.
Guarantees: the child starts when first needed, and again after it died or was stopped; what it or its libraries print
never gets among the answers; a dead or late child is an exception that says which.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable


class ChildDied(Exception):
    """The child ended without an answer."""

    def __init__(self, status: int) -> None:
        super().__init__(f"exit status {status}")
        self.status = status


class ChildLate(Exception):
    """The child took too long and was stopped."""


class LineChild:
    """A child of its own; not to be shared by threads.

    Args:
        module: Run as `python -m module`.
        arguments: Its command line.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self._process: subprocess.Popen[str] | None = None

    def ask(self, line: str, timeout_s: float) -> str:
        """The answer to one line.

        Raises:
            ChildDied: it ended first.
            ChildLate: it took longer than `timeout_s`.
        """
        process = self.start()
        assert process.stdin is not None and process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(timeout_s, stop)
        timer.start()
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            timer.cancel()
        if not answer:
            status = process.wait()
            self._process = None
            if late.is_set():
                raise ChildLate
            raise ChildDied(status)
        return answer

    def start(self) -> subprocess.Popen[str]:
        """The running process."""
        if self._process is None or self._process.poll() is not None:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PIXELIS_PROGRESS_FILE": ""}
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
            )
        return self._process

    def close(self) -> None:
        """End it once it has answered what it was asked."""
        if self._process is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.communicate()
            self._process = None


def serve(answer: Callable[[str], str]) -> None:
    """Answer lines until the input ends; the child's side."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library that prints must not write among the answers
    for line in sys.stdin:
        print(answer(line), file=out, flush=True)

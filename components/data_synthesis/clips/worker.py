"""A decoding process: one JSON request a line in, one JSON result a line out.

Media are untrusted and decoders are C: whatever a file does to this process (crash, endless loop, memory) it does to
this process alone. `Worker` is the side that starts it; `main` the side that runs in it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

from components.data_synthesis.clips.cutting import CutRequest, CutResult, cut_recording
from components.shared.runtime.errors import InputError, PixelisError
from components.shared.video.limits import limit_memory

log = logging.getLogger(__name__)
GIB = 2**30


class Worker:
    """A decoding child, started when first needed and again after it died."""

    def __init__(self, memory_gib: float) -> None:
        self.memory_gib = memory_gib
        self._child: subprocess.Popen[str] | None = None

    def cut(self, request: CutRequest, timeout_s: float) -> CutResult:
        """Have one recording cut.

        Raises:
            InputError: the recording cannot be used, took too long, or killed its decoder; says which.
            OSError: the machine's fault (disk full): no recording is skipped for that.
        """
        name = request.recording.recording_id
        child = self._start()
        assert child.stdin is not None and child.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(timeout_s, stop)
        timer.start()
        try:
            child.stdin.write(request.model_dump_json() + "\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            status = child.wait()
            self._child = None
            if late.is_set():
                raise InputError(f"{name}: decoding took more than {timeout_s:.0f} s and was stopped.")
            raise InputError(f"{name}: its decoder died (exit status {status}).")
        result = CutResult.model_validate_json(line)
        if result.system_error:
            raise OSError(result.system_error, os.strerror(result.system_error), request.part)
        if result.error:
            raise InputError(result.error)
        return result

    def _start(self) -> subprocess.Popen[str]:
        if self._child is None or self._child.poll() is not None:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PIXELIS_PROGRESS_FILE": ""}
            command = [sys.executable, "-m", "components.data_synthesis.clips.worker", f"{self.memory_gib:g}"]
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
            )
        return self._child

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            with contextlib.suppress(BrokenPipeError):
                self._child.communicate()
            self._child = None


def answer(line: str) -> str:
    """Carry out one request; failures of the media become the result's `error`."""
    request = CutRequest.model_validate_json(line)
    try:
        return cut_recording(request).model_dump_json()
    except PixelisError as error:
        return CutResult(error=str(error)).model_dump_json()
    except OSError as error:
        return CutResult(error=str(error), system_error=error.errno or errno.EIO).model_dump_json()
    except MemoryError:
        name = request.recording.recording_id
        return CutResult(error=f"{name}: needs more memory than a decoding process may use.").model_dump_json()


def main() -> None:
    """Serve requests until the input ends."""
    limit_memory(int(float(sys.argv[1]) * GIB))
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a decoder that prints must not write into the protocol
    for line in sys.stdin:
        print(answer(line), file=out, flush=True)


def part_path(folder: Path, position: int) -> Path:
    """Where the packed clips of a group's n-th recording lie until they are in a shard."""
    return folder / f"part-{position:06d}"


if __name__ == "__main__":
    main()

"""A decoding process: one JSON request a line in, one JSON result a line out.

Media are untrusted and decoders are C: whatever a file does to this process (crash, endless loop, memory) it does to
this process alone. `Worker` is the side that starts it; `main` the side that runs in it.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from components.data_synthesis.clips.cutting import CutRequest, CutResult, cut_recording
from components.shared.runtime.errors import InputError, PixelisError
from components.shared.runtime.line_child import ChildDied, ChildLate, LineChild, serve
from components.shared.video.limits import limit_memory

GIB = 2**30


class Worker:
    """A decoding child, started when first needed and again after it died."""

    def __init__(self, memory_gib: float) -> None:
        self.child = LineChild("components.data_synthesis.clips.worker", f"{memory_gib:g}")

    def cut(self, request: CutRequest, timeout_s: float) -> CutResult:
        """Have one recording cut.

        Raises:
            InputError: the recording cannot be used, took too long, or killed its decoder; says which.
            OSError: the machine's fault (disk full): no recording is skipped for that.
        """
        name = request.recording.recording_id
        try:
            result = CutResult.model_validate_json(self.child.ask(request.model_dump_json(), timeout_s))
        except ChildLate:
            raise InputError(f"{name}: decoding took more than {timeout_s:.0f} s and was stopped.") from None
        except ChildDied as death:
            raise InputError(f"{name}: its decoder died ({death}).") from None
        if result.system_error:
            raise OSError(result.system_error, os.strerror(result.system_error), request.part)
        if result.error:
            raise InputError(result.error)
        return result

    def close(self) -> None:
        """End the child."""
        self.child.close()


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
    serve(answer)


def part_path(folder: Path, position: int) -> Path:
    """Where the packed clips of a group's n-th recording lie until they are in a shard."""
    return folder / f"part-{position:06d}"


if __name__ == "__main__":
    main()

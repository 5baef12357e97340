"""Files of lines that only grow: the ledger of updates, the audit log."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def append_line(path: Path, line: str) -> None:
    """Add a line; it is on disk on return. One writer at a time.

    Where that fails (a full disk), nothing of it stays behind: half a line would swallow the next one.

    Raises:
        OSError: the line was not written.
    """
    with open(path, "ab", buffering=0) as file:
        end = file.tell()
        try:
            left = memoryview(line.encode() + b"\n")
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise

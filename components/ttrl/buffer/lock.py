"""One owner: an exclusive lock on the directory that dies with its process, and says who holds it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
from pathlib import Path

from components.ttrl.buffer.errors import BufferLockedError


class OwnerLock:
    """Held from construction to `release`; the kernel releases it when the process dies, however it dies.

    Raises:
        BufferLockedError: somebody else holds it; names process, host and since when.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "LOCK"
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._descriptor, 4096, 0).decode(errors="replace")
            os.close(self._descriptor)
            raise BufferLockedError(
                f"{directory} is owned by {describe_owner(owner)}; two owners would overwrite each other.",
                remedy="Stop that process. Reading works beside it: read_only=True, `pixelis buffer stat|dump|export`.",
            ) from error
        command = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
        identity = {"pid": os.getpid(), "host": socket.gethostname(), "command": command, "since_s": round(time.time())}
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(identity).encode(), 0)

    def release(self) -> None:
        """Give the directory back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def describe_owner(text: str) -> str:
    """The identity in a lock file, in words."""
    try:
        owner = json.loads(text)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["since_s"]))
        return f"process {owner['pid']} ({owner['command']}) on {owner['host']} since {since}"
    except (ValueError, KeyError, TypeError):
        return "another process (which has not written its identity yet)"

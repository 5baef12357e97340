"""One process per state directory: an advisory lock that says whose it is, gone when its process is."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from components.shared.runtime.errors import EnvironmentFault


class StateLock:
    """Held from construction to `release`.

    Raises:
        EnvironmentFault: another process holds it, or the directory cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise EnvironmentFault(
                f"the state directory {directory} cannot be used ({error.strerror}), so nothing could be remembered.",
                remedy="Set ttrl.state_dir to a directory that can be written.",
            ) from None
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(self._handle, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._handle)
            raise EnvironmentFault(
                f"the state directory {directory} belongs to a service that runs (process {owner}).",
                remedy="Stop it with `pixelis ttrl stop`, or give another --state.",
            ) from None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the directory back; twice is fine."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

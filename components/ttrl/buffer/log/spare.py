"""The next segment, zeroed in the background: commits into it change no file metadata, which halves their time."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from components.ttrl.buffer.disk import Disk, write_all

log = logging.getLogger(__name__)
NAME = "spare.tmp"
CHUNK = bytes(1 << 20)


class Spare:
    """A file `spare.tmp` of `size` zero bytes in the log's folder. Nothing depends on it: without it appends are
    slower.

    Args:
        disk: File layer.
        directory: The log's folder.
        size: Bytes.
    """

    def __init__(self, disk: Disk, directory: Path, size: int) -> None:
        self.disk, self.path, self.size = disk, directory / NAME, size
        self.ready = False
        self._descriptor = -1
        self._stop = False
        self._thread: threading.Thread | None = None
        self.prepare()

    def prepare(self) -> None:
        """Begin zeroing another file, unless one is ready or under way."""
        if self.ready or (self._thread is not None and self._thread.is_alive()):
            return
        self.ready, self._stop = False, False
        self._thread = threading.Thread(target=self._zero, name="buffer-zeroing", daemon=True)
        self._thread.start()

    def take(self, path: Path) -> int:
        """Rename the ready spare to `path`; returns its descriptor. The caller makes the name durable."""
        self.ready = False
        self.disk.rename(self.path, path)
        descriptor, self._descriptor = self._descriptor, -1
        return descriptor

    def drop(self) -> None:
        """Stop zeroing and delete the file."""
        self._stop = True
        if self._thread is not None:
            self._thread.join()
        self.ready = False
        if self._descriptor >= 0:
            self.disk.close(self._descriptor)
            self._descriptor = -1
        try:
            self.disk.unlink(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("%s stays: %s", self.path, error)

    def _zero(self) -> None:
        try:
            if self.path.exists():
                self.disk.unlink(self.path)
            self._descriptor = self.disk.create(self.path)
            for offset in range(0, self.size, len(CHUNK)):
                if self._stop:
                    return
                write_all(self.disk, self._descriptor, CHUNK[: self.size - offset], offset)
                self.disk.sync(self._descriptor)
            self.ready = True
        except OSError as error:
            log.info("no segment zeroed ahead (%s): commits go on, a little slower", error)

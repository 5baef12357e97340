"""The writing end of the log: appends batches to the active segment, rolls to the next, survives failed writes.

Guarantee: `append` returns after fdatasync. If it raises, nothing of the batch counts: the segment is cut back to its last
acknowledged byte and never written again. Not thread-safe: one committer at a time (the caller's lock).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from components.ttrl.buffer.disk import Disk, write_all
from components.ttrl.buffer.log.frame import Entry, encode, frame_size

log = logging.getLogger(__name__)
ZERO_CHUNK = bytes(1 << 20)
SPARE = "spare.tmp"


def segment_path(directory: Path, number: int) -> Path:
    """The file of a segment."""
    return directory / f"{number:010d}.log"


class LogWriter:
    """Appends to segments `first_number`, `first_number + 1`, ... of a folder.

    Args:
        disk: File layer.
        directory: The log's folder.
        segment_bytes: Size at which a segment is full (one batch may exceed it).
        preallocate: Zero the next segment in a background thread.
        first_number: Number of the first segment to create.
        opening: The body entry of a segment's first frame, for its number.
    """

    def __init__(
        self, disk: Disk, directory: Path, segment_bytes: int, preallocate: bool, first_number: int,
        opening: Callable[[int], Entry],
    ) -> None:  # fmt: skip
        self.disk, self.directory, self.segment_bytes = disk, directory, segment_bytes
        self.preallocate, self.opening = preallocate, opening
        self.number = first_number - 1
        self.descriptor = -1
        self.end = self.size = 0
        self.on_new: Callable[[int, int], None] = lambda number, descriptor: None
        self._spare = Spare(disk, directory, segment_bytes) if preallocate else None

    def append(self, entries: Sequence[Entry], sequences: Sequence[int]) -> list[tuple[int, int]]:
        """Write frames and make them durable.

        Returns:
            (segment number, offset) of each frame.

        Raises:
            OSError: the device refused; nothing of the batch is in the log.
        """
        total = sum(frame_size(len(item.body)) for item in entries)
        if self.descriptor < 0 or self.end + total > max(self.size, self.segment_bytes) or self._better_spare():
            self._roll()
        parts: list[bytes] = []
        places: list[tuple[int, int]] = []
        offset = self.end
        if offset == 0:
            parts.extend(encode(self.opening(self.number), 0))
            offset += sum(map(len, parts))
        for item, sequence in zip(entries, sequences):
            places.append((self.number, offset))
            parts.extend(encode(item, sequence))
            offset += frame_size(len(item.body))
        try:
            write_all(self.disk, self.descriptor, b"".join(parts), self.end)
            self.disk.sync(self.descriptor)
        except BaseException:
            self._abandon()
            raise
        self.end = offset
        return places

    def seal(self) -> None:
        """Cut the active segment to its used length and write it no more."""
        if self.descriptor < 0:
            return
        descriptor, self.descriptor = self.descriptor, -1
        if self.size > self.end:
            try:
                self.disk.truncate(descriptor, self.end)
                self.disk.sync(descriptor)
            except OSError as error:
                log.warning("segment %d keeps its unused room: %s", self.number, error)

    def close(self) -> None:
        """Seal, and drop the spare segment."""
        if self._spare is not None:
            self._spare.drop()
        self.seal()

    def _better_spare(self) -> bool:
        """A zeroed segment is ready while the active one must still grow (a metadata commit each time)."""
        return self.size == 0 and self._spare is not None and self._spare.ready

    def _roll(self) -> None:
        self.seal()
        number, descriptor, size = self.number + 1, -1, 0
        path = segment_path(self.directory, number)
        if self._spare is not None and self._spare.ready:
            descriptor, size = self._spare.take(path), self.segment_bytes
        else:
            descriptor = self.disk.create(path)
        try:
            self.disk.sync_directory(self.directory)
        except BaseException:
            self.disk.close(descriptor)
            self.disk.unlink(path)
            raise
        self.number, self.descriptor, self.size, self.end = number, descriptor, size, 0
        self.on_new(number, descriptor)
        if self._spare is not None:
            self._spare.prepare()

    def _abandon(self) -> None:
        """After a failed write: cut back to the last acknowledged byte; what the device holds beyond it is unknown."""
        descriptor, self.descriptor = self.descriptor, -1
        try:
            self.disk.truncate(descriptor, self.end)
            self.disk.sync(descriptor)
        except OSError as error:
            log.warning("segment %d could not be cut back after a failed write: %s", self.number, error)


class Spare:
    """The next segment, zeroed in the background, so that commits into it change no file metadata."""

    def __init__(self, disk: Disk, directory: Path, size: int) -> None:
        self.disk, self.path, self.size = disk, directory / SPARE, size
        self.ready = False
        self._descriptor = -1
        self._stop = False
        self._thread: threading.Thread | None = None
        self.prepare()

    def prepare(self) -> None:
        """Begin zeroing another file."""
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
            for offset in range(0, self.size, len(ZERO_CHUNK)):
                if self._stop:
                    return
                write_all(self.disk, self._descriptor, ZERO_CHUNK[: self.size - offset], offset)
                self.disk.sync(self._descriptor)
            self.ready = True
        except OSError as error:
            log.info("no segment zeroed ahead (%s): commits go on, a little slower", error)

"""Every byte the buffer writes goes through here, so that tests can record, cut, reorder and fail each call.

Guarantee: the functions do what their POSIX names say and nothing more. Durability is the caller's: data is safe after
`sync`, a created, renamed or deleted name after `sync_directory`.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
"""Linux has it; elsewhere the next flush does all of the work."""


class Disk:
    """The operating system's files."""

    def create(self, path: Path) -> int:
        """Open a file for reading and writing that must not exist yet."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)

    def open(self, path: Path) -> int:
        """Open an existing file for reading and writing."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def write(self, descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write at an offset; returns the bytes written, which may be fewer than given."""
        return os.pwrite(descriptor, data, offset)

    def sync(self, descriptor: int) -> None:
        """Data and size reach the device (fdatasync)."""
        os.fdatasync(descriptor)

    def begin_writing(self, descriptor: int, offset: int, size: int) -> None:
        """Tell the device to begin with written bytes (sync_file_range); nothing is waited for, nothing promised."""
        if _sync_file_range is not None and size > 0:
            _sync_file_range(descriptor, ctypes.c_int64(offset), ctypes.c_int64(size), SYNC_FILE_RANGE_WRITE)

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut the file to `size` bytes."""
        os.ftruncate(descriptor, size)

    def close(self, descriptor: int) -> None:
        """Give the descriptor back."""
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Replace `target` by `source` in one step."""
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        """Delete a file."""
        os.unlink(path)

    def sync_directory(self, path: Path) -> None:
        """Names created, renamed or deleted in `path` reach the device."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def free_bytes(self, path: Path) -> int:
        """Space an ordinary user may still fill."""
        state = os.statvfs(path)
        return state.f_bavail * state.f_frsize


def write_all(disk: Disk, descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write everything or raise.

    Raises:
        OSError: the device refused, or wrote nothing.
    """
    view = memoryview(data)
    while view:
        written = disk.write(descriptor, view, offset)
        if written <= 0:
            raise OSError(5, "the device accepted none of the bytes")
        view, offset = view[written:], offset + written


def replace_file(disk: Disk, path: Path, data: bytes | memoryview) -> None:
    """Write, sync, rename, sync the directory: after a crash `path` holds the old bytes or all of the new ones."""
    scratch = path.with_name(path.name + ".tmp")
    if scratch.exists():
        disk.unlink(scratch)
    descriptor = disk.create(scratch)
    try:
        write_all(disk, descriptor, data, 0)
        disk.sync(descriptor)
    finally:
        disk.close(descriptor)
    disk.rename(scratch, path)
    disk.sync_directory(path.parent)

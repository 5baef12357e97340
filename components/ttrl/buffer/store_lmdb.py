"""The `lmdb` adapter: entries in an LMDB environment, keyed by sequence number, which is also the address.

A value is a frame of the log's format, so each entry has its checksum. One transaction a batch, synchronous. LMDB's
tree is its own index: there are no snapshots, and compaction deletes dead entries; `shrink` makes the environment anew,
because LMDB otherwise leaves deleted bytes in free pages and in the slack of used ones.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from crc32c import crc32c

from components.ttrl.buffer.disk import Disk
from components.ttrl.buffer.errors import BufferDamagedError, ExperienceBufferError
from components.ttrl.buffer.log.frame import HEADER, MAGIC, Entry, Found, Kind, encode
from components.ttrl.buffer.store import ScanReport

PURGE_BATCH = 10_000
COPY_BATCH = 1_000
META_BYTES = 2 * mmap.PAGESIZE
"""The two pages every environment begins with; records lie behind them."""


class LmdbStore:
    """An environment in a folder.

    Args:
        directory: The environment's folder.
        disk: File layer (for renames and directory syncs; LMDB writes its own file).
        map_bytes: Address space.
        read_only: Never write.
    """

    snapshots = False
    """LMDB finds its entries itself."""

    def __init__(self, directory: Path, disk: Disk, *, map_bytes: int, read_only: bool) -> None:
        self.directory, self.disk, self.map_bytes, self.read_only = directory, disk, map_bytes, read_only
        stale = directory.with_name(directory.name + ".old")
        if not read_only:
            if not directory.exists() and stale.exists():  # a crash between the two renames of `shrink`
                disk.rename(stale, directory)
            shutil.rmtree(stale, ignore_errors=True)
            shutil.rmtree(directory.with_name(directory.name + ".tmp"), ignore_errors=True)
            disk.sync_directory(directory.parent)
        self._guard = threading.RLock()  # held while the environment may not be exchanged
        self._environment = self._open()

    def _open(self) -> Any:
        try:
            import lmdb
        except ImportError as error:
            raise ExperienceBufferError(
                "buffer.adapter is lmdb, but the lmdb package is not installed.",
                remedy="Install pixelis[lmdb], or use the file adapter.",
            ) from error
        try:
            return lmdb.open(
                str(self.directory), map_size=self.map_bytes, sync=True, metasync=True, readonly=self.read_only,
                max_readers=512, readahead=False, lock=True,
            )  # fmt: skip
        except lmdb.Error as error:
            raise BufferDamagedError(
                f"{self.directory} cannot be opened: {error}. Its records cannot be read.",
                remedy="Put data.mdb back from a copy or an export.",
            ) from error

    def append(self, entries: Sequence[Entry], sequences: Sequence[int]) -> list[int]:
        """See `Store.append`."""
        import lmdb

        try:
            with self._environment.begin(write=True) as transaction:
                for item, sequence in zip(entries, sequences):
                    transaction.put(sequence.to_bytes(8, "big"), b"".join(encode(item, sequence)), append=True)
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            raise OSError(errno.ENOSPC, str(error)) from error
        except lmdb.Error as error:
            raise OSError(errno.EIO, str(error)) from error
        return list(sequences)

    def read(self, address: int) -> Found:
        """See `Store.read`."""
        with self._guard, self._environment.begin() as transaction:
            value = transaction.get(address.to_bytes(8, "big"))
        found = _parse(value, address) if value is not None else None
        if found is None:
            raise BufferDamagedError(
                f"entry {address} of {self.directory} is {'missing' if value is None else 'damaged'}.",
                remedy="Run `pixelis buffer verify`; all other records stay readable.",
            )
        return found

    def scan(self, report: ScanReport, covered: Mapping[int, int] | None = None) -> Iterator[Found]:
        """See `Store.scan`."""
        with self._environment.begin() as transaction:
            for key, value in transaction.cursor():
                address = int.from_bytes(key, "big")
                found = _parse(value, address)
                if found is None:
                    report.damages.append(f"entry {address}: {len(value)} bytes, checksum")
                    report.dropped_bytes += len(value)
                    continue
                report.entries += 1
                yield found

    def purge(self, is_live: Callable[[Found], bool], *, damaged: bool = False) -> int:
        """Delete every entry that is not in force, removals included, and `damaged` ones; returns how many. The caller
        holds the commit lock."""
        dead: list[int] = []
        with self._environment.begin() as transaction:
            for key, value in transaction.cursor():
                address = int.from_bytes(key, "big")
                found = _parse(value, address)
                if damaged if found is None else found.kind == Kind.REMOVE or not is_live(found):
                    dead.append(address)
        for start in range(0, len(dead), PURGE_BATCH):
            with self._environment.begin(write=True) as transaction:
                for address in dead[start : start + PURGE_BATCH]:
                    transaction.delete(address.to_bytes(8, "big"))
        return len(dead)

    def shrink(self) -> None:
        """Put what is in force into a fresh environment and delete the old one.

        Not LMDB's own compacting copy: that copies overflow pages whole, and the slack behind a value may hold bytes of
        deleted ones, from a page that was used again. In a fresh environment there were none.

        The caller holds the commit lock.

        Raises:
            OSError: the old environment stays, or some of it is not deleted yet; calling again goes on.
        """
        scratch = self.directory.with_name(self.directory.name + ".tmp")
        old = self.directory.with_name(self.directory.name + ".old")
        for leftover in (scratch, old):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(leftover)
        scratch.mkdir()
        self._fill(scratch)
        _sync(self.disk, scratch)
        with self._guard:
            self._environment.close()
            try:
                self.disk.rename(self.directory, old)
                try:
                    self.disk.rename(scratch, self.directory)
                except BaseException:
                    self.disk.rename(old, self.directory)
                    raise
                self.disk.sync_directory(self.directory.parent)
            finally:
                self._environment = self._open()
        shutil.rmtree(old)

    def _fill(self, scratch: Path) -> None:
        """Copy every entry, in batches: an open transaction holds its pages in memory."""
        import lmdb

        try:
            with (
                lmdb.open(str(scratch), map_size=self.map_bytes, sync=False) as fresh,
                self._environment.begin() as transaction,
            ):
                entries = iter(transaction.cursor())
                while batch := list(islice(entries, COPY_BATCH)):
                    with fresh.begin(write=True) as target:
                        for key, value in batch:
                            target.put(key, value, append=True)
                fresh.sync(True)
        except lmdb.Error as error:
            raise OSError(errno.ENOSPC if isinstance(error, lmdb.MapFullError) else errno.EIO, str(error)) from error

    def bytes_on_disk(self) -> int:
        """See `Store.bytes_on_disk`."""
        return sum(path.stat().st_blocks * 512 for path in self.directory.iterdir())

    def close(self) -> None:
        """See `Store.close`."""
        self._environment.close()


def path_of(directory: Path) -> Path:
    """The file of an environment's folder that holds its records."""
    return directory / "data.mdb"


def create(directory: Path, disk: Disk, map_bytes: int) -> None:
    """Make an empty environment, durable; one that is there stays."""
    directory.mkdir(exist_ok=True)
    LmdbStore(directory, disk, map_bytes=map_bytes, read_only=False).close()
    _sync(disk, directory)
    disk.sync_directory(directory.parent)


def exists(directory: Path) -> bool:
    """Whether there is an environment, or the one that a crash during `shrink` left to be taken back."""
    path, old = path_of(directory), path_of(directory.with_name(directory.name + ".old"))
    if _size(path) >= META_BYTES or (not directory.exists() and _size(old) >= META_BYTES):
        return True
    return _size(path) >= META_BYTES  # its owner may have exchanged it between the two looks


def holds_records(directory: Path) -> bool:
    """Whether there is more than what an empty environment begins with."""
    return _size(path_of(directory)) > META_BYTES


def is_fresh(directory: Path) -> bool:
    """Whether a folder holds what an empty environment begins with, or less."""
    return not holds_records(directory) and {p.name for p in directory.iterdir()} <= {"data.mdb", "lock.mdb"}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _sync(disk: Disk, folder: Path) -> None:
    """An environment's file and its name reach the device."""
    descriptor = disk.open(folder / "data.mdb")
    try:
        disk.sync(descriptor)
    finally:
        disk.close(descriptor)
    disk.sync_directory(folder)


def _parse(value: bytes, address: int) -> Found | None:
    if len(value) < HEADER.size:
        return None
    magic, header_crc, kind, _, group, length, sequence, body_crc, _ = HEADER.unpack_from(value)
    body = memoryview(value)[HEADER.size : HEADER.size + length]
    if (
        magic != MAGIC
        or crc32c(value[8 : HEADER.size]) != header_crc
        or len(body) != length
        or crc32c(body) != body_crc
    ):
        return None
    return Found(kind, group, sequence, address, body, body_crc)

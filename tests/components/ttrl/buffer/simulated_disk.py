"""Disks for fault tests: one that records every call so that a crash can be replayed at any of them, one that fails
calls.

A crash is modelled as a device that has what was synced, and of everything after that any part: in `cut` all of it in
order up to a byte; in `scrambled` any subset of the un-synced writes, torn at 512-byte sectors, in any order. Names
of a folder reach the device in order (as in a journalling file system), those not yet synced only up to some point.
"""

import errno
import os
import threading
from pathlib import Path

from components.ttrl.buffer.disk import Disk

SECTOR = 512


class FastDisk(Disk):
    """No flushes: for reopening replayed directories, where only the content matters."""

    def sync(self, descriptor):
        pass

    def sync_directory(self, path):
        pass


class RecordingDisk(Disk):
    """Remembers what was asked, in order. `mark` puts a note between."""

    def __init__(self, root):
        self.root = Path(root)
        self.calls = []
        self._inodes = {}
        self._next = 0
        self._lock = threading.Lock()

    def _name(self, path):
        return str(Path(path).relative_to(self.root))

    def _open(self, descriptor):
        with self._lock:
            self._next += 1
            self._inodes[descriptor] = self._next
            return self._next

    def mark(self, note):
        self.calls.append(("mark", note))

    def create(self, path):
        descriptor = super().create(path)
        self.calls.append(("create", self._name(path), self._open(descriptor)))
        return descriptor

    def open(self, path):
        descriptor = super().open(path)
        self.calls.append(("open", self._name(path), self._open(descriptor)))
        return descriptor

    def write(self, descriptor, data, offset):
        self.calls.append(("write", self._inodes[descriptor], offset, bytes(data)))
        return super().write(descriptor, data, offset)

    def sync(self, descriptor):
        super().sync(descriptor)
        self.calls.append(("sync", self._inodes[descriptor]))

    def truncate(self, descriptor, size):
        super().truncate(descriptor, size)
        self.calls.append(("truncate", self._inodes[descriptor], size))

    def rename(self, source, target):
        super().rename(source, target)
        self.calls.append(("rename", self._name(source), self._name(target)))

    def unlink(self, path):
        super().unlink(path)
        self.calls.append(("unlink", self._name(path)))

    def sync_directory(self, path):
        super().sync_directory(path)
        self.calls.append(
            ("sync_directory", str(Path(path).relative_to(self.root)) if path != self.root.parent else "")
        )


class Image:
    """What the device holds after some calls."""

    def __init__(self):
        self.content = {}  # inode -> bytes synced
        self.loose = {}  # inode -> calls since
        self.names = {}  # name -> inode, durable
        self.pending = []  # name calls since the last sync of their folder
        self.handles = {}  # handle -> inode (a handle of `open` is another number for the same inode)

    def apply(self, call):
        kind = call[0]
        if kind == "create":
            inode = call[2]
            self.handles[inode], self.content[inode], self.loose[inode] = inode, bytearray(), []
            self.pending.append(call)
        elif kind == "open":
            self.handles[call[2]] = self._current()[call[1]]
        elif kind in ("write", "truncate"):
            self.loose[self.handles[call[1]]].append(call)
        elif kind == "sync":
            inode = self.handles[call[1]]
            for loose in self.loose[inode]:
                _apply(self.content[inode], loose)
            self.loose[inode] = []
        elif kind in ("rename", "unlink"):
            self.pending.append(call)
        elif kind == "sync_directory":
            rest = []
            for pending in self.pending:
                if str(Path(pending[1]).parent) == call[1] or (call[1] == "." and "/" not in pending[1]):
                    _rename(self.names, pending)
                else:
                    rest.append(pending)
            self.pending = rest

    def _current(self):
        names = dict(self.names)
        for call in self.pending:
            _rename(names, call)
        return names

    def write_to(self, root, *, partial=None, generator=None):
        """Lay the files out under `root`; `partial` is the call during which the power went, as far as it came.

        Without a generator every call so far has reached the device; with one, any subset of what was not synced.
        """
        names = dict(self.names)
        keep = len(self.pending) if generator is None else int(generator.integers(0, len(self.pending) + 1))
        for call in self.pending[:keep]:
            _rename(names, call)
        for name, inode in names.items():
            content = bytearray(self.content[inode])
            loose = list(self.loose[inode])
            if partial is not None and self.handles[partial[1]] == inode:
                loose.append(partial)
            if generator is not None:
                loose = _scrambled(loose, generator)
            for call in loose:
                _apply(content, call)
            path = Path(root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _apply(content, call):
    if call[0] == "truncate":
        size = call[2]
        del content[size:]
        content.extend(bytes(size - len(content)))
        return
    _, _, offset, data = call
    if len(content) < offset + len(data):
        content.extend(bytes(offset + len(data) - len(content)))
    content[offset : offset + len(data)] = data


def _rename(names, call):
    if call[0] == "create":
        names[call[1]] = call[2]
    elif call[0] == "rename":
        if call[1] in names:
            names[call[2]] = names.pop(call[1])
    else:
        names.pop(call[1], None)


def _scrambled(calls, generator):
    pieces = []
    for call in calls:
        if call[0] == "truncate":
            if generator.random() < 0.5:
                pieces.append(call)
            continue
        _, handle, offset, data = call
        start = 0
        while start < len(data):
            stop = min(len(data), (offset + start) // SECTOR * SECTOR + SECTOR - offset)
            if generator.random() < 0.6:
                pieces.append(("write", handle, offset + start, data[start:stop]))
            start = stop
    generator.shuffle(pieces)
    return pieces


class FaultyDisk(Disk):
    """Fails call number `at` (counted over all kinds), and every later one while `sticky`."""

    def __init__(self, at=-1, *, error=errno.EIO, short=False, sticky=False):
        self.at, self.error, self.short, self.sticky = at, error, short, sticky
        self.count = 0
        self.armed = True
        self.free = None

    def _step(self, name):
        if not self.armed:
            return False
        self.count += 1
        if self.count == self.at or (self.sticky and self.count > self.at >= 0):
            if self.short and name == "write":
                return True
            raise OSError(self.error, f"injected into {name}")
        return False

    def create(self, path):
        self._step("create")
        return super().create(path)

    def open(self, path):
        self._step("open")
        return super().open(path)

    def write(self, descriptor, data, offset):
        if self._step("write"):
            half = memoryview(data)[: max(1, len(data) // 2)]
            super().write(descriptor, half, offset)
            raise OSError(self.error, "injected after half a write")
        return super().write(descriptor, data, offset)

    def sync(self, descriptor):
        self._step("sync")
        return super().sync(descriptor)

    def truncate(self, descriptor, size):
        self._step("truncate")
        return super().truncate(descriptor, size)

    def rename(self, source, target):
        self._step("rename")
        return super().rename(source, target)

    def unlink(self, path):
        self._step("unlink")
        return super().unlink(path)

    def sync_directory(self, path):
        self._step("sync_directory")
        return super().sync_directory(path)

    def free_bytes(self, path):
        return super().free_bytes(path) if self.free is None else self.free


def flip(path, offset, bit=0):
    """Flip one bit of a file."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        byte = os.pread(descriptor, 1, offset)[0]
        os.pwrite(descriptor, bytes([byte ^ (1 << bit)]), offset)
    finally:
        os.close(descriptor)

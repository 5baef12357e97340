"""Keeps a step's work folder in an object store, so that the next attempt, in another pod, finds its checkpoints.

Guarantees: a folder whose name begins with a dot is being written and is not stored; new files are stored before old
ones are removed, so that the address always holds a whole checkpoint once it held one; a store that does not answer
costs a warning and the copy, never the training.
Not guaranteed: what was written less than `EVERY_S` before a pod vanished.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

from components.shared.runtime.errors import PixelisError
from components.shared.runtime.stores import exists, explained, fetch_folder, open_store

log = logging.getLogger(__name__)
EVERY_S = 60.0
Stamps = dict[str, tuple[int, int]]
"""Size and time of change by file name."""


@contextlib.contextmanager
def kept(work: Path, uri: str) -> Iterator[None]:
    """Bring what an earlier attempt left into `work`, and store what changes in it: now and then, and at the end."""
    done = threading.Event()
    stored: Stamps = {}

    def keep() -> None:
        nonlocal stored
        try:
            stored = mirror(work, uri, stored)
        except (PixelisError, OSError) as error:
            log.warning("checkpoints could not be stored: %s", error)

    def loop() -> None:
        while not done.wait(EVERY_S):
            keep()

    try:
        if exists(uri):
            num_files, size_bytes = fetch_folder(uri, work)
            log.info("an earlier attempt left %d files, %d bytes", num_files, size_bytes)
            stored = stamps(work)
    except PixelisError as error:
        log.warning("what an earlier attempt left could not be brought: %s", error)
    keeper = threading.Thread(target=loop, daemon=True, name="keep-work")
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
        keep()


def stamps(work: Path) -> Stamps:
    """The finished files of a folder."""
    found: Stamps = {}
    for path in sorted(work.rglob("*")):
        name = path.relative_to(work).as_posix()
        if not any(part.startswith(".") for part in name.split("/")) and path.is_file():
            facts = path.stat()
            found[name] = (facts.st_size, facts.st_mtime_ns)
    return found


def mirror(work: Path, uri: str, stored: Stamps) -> Stamps:
    """Make the address hold what the folder holds, given what it held before; returns what it holds now."""
    now = stamps(work)
    fresh = [name for name, facts in now.items() if stored.get(name) != facts]
    gone = [name for name in stored if name not in now]
    store, root = open_store(uri)
    with explained(uri, "written"):
        if fresh:
            store.put([str(work / name) for name in fresh], [f"{root}/{name}" for name in fresh])
        if gone:
            store.rm([f"{root}/{name}" for name in gone])
    return now

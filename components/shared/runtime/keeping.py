"""Keeps a step's work folder in an object store, so that the next attempt, in another pod, finds its checkpoints.

An address is `<place>/<run>/work`, the place the same for all runs of the same work. A run writes under its own address
only; one that finds nothing there begins with a copy of what another run of the same work left last.

Guarantees: a folder whose name begins with a dot is being written and is not stored; new files are stored before old
ones are removed, so that the address always holds a whole checkpoint once it held one; what is brought is what lay
there at one moment, or nothing; a store that does not answer costs a warning and the copy, never the training.
Not guaranteed: what was written less than `EVERY_S` before a pod vanished.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from components.shared.runtime.errors import ArtifactError, PixelisError
from components.shared.runtime.stores import exists, explained, fetch_folder, find, listing_digest, open_store, written

log = logging.getLogger(__name__)
EVERY_S = 60.0
TRIES = 3
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
        if stamps(work):
            log.info("%s holds an earlier attempt's files already", work)
        elif exists(uri):
            bring(uri, work)
            stored = stamps(work)
        elif other := left_by_another(uri):
            bring(other, work)
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


def bring(uri: str, work: Path) -> None:
    """Fetch what lies under an address into `work`, all of it or nothing.

    Raises:
        ArtifactError: somebody kept changing it.
    """
    for _ in range(TRIES):
        with tempfile.TemporaryDirectory(dir=work, prefix=".brought-") as folder:
            before = listing_digest(uri)
            num_files, size_bytes = fetch_folder(uri, Path(folder))
            if listing_digest(uri) == before:
                for path in Path(folder).iterdir():
                    path.rename(work / path.name)
                log.info("an earlier attempt left %d files, %d bytes under %s", num_files, size_bytes, uri)
                return
    raise ArtifactError(f"{uri} changed each of {TRIES} times while it was fetched; nothing of it is used.")


def left_by_another(uri: str) -> str | None:
    """The address where another run of the same work left something, the newest such; None where there is none."""
    place, run, leaf = uri.rsplit("/", 2)
    times: dict[str, str] = {}
    for name, item in find(place).items():
        other, _, rest = name.partition("/")
        if other != run and rest.startswith(f"{leaf}/"):
            times[other] = max(times.get(other, ""), written(item))
    return f"{place}/{max(times, key=lambda other: times[other])}/{leaf}" if times else None


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

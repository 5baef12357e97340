"""What lies where in a buffer's directory, and the file that says it is one.

buffer.json   format version, dimension, adapter, the buffer's id, checksum
LOCK          the owner's lock and identity
log/          segments (adapter `file`)
data/         environment (adapter `lmdb`)
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from crc32c import crc32c

from components.shared.runtime.config import canonical_json
from components.ttrl.buffer import store_lmdb
from components.ttrl.buffer.config import BufferConfig
from components.ttrl.buffer.disk import Disk, replace_file
from components.ttrl.buffer.errors import BufferFormatError
from components.ttrl.buffer.log.segment import segment_files
from components.ttrl.buffer.store import Store
from components.ttrl.buffer.store_file import FileStore
from components.ttrl.buffer.store_lmdb import LmdbStore

FORMAT = 1
NAME = "buffer.json"


def refuse_foreign(directory: Path) -> None:
    """Raise if the directory holds something that is not a buffer."""
    if (directory / NAME).exists():
        return
    present = sorted(p.name for p in directory.iterdir() if p.name not in ("LOCK", NAME + ".tmp"))
    if present == ["data"] and store_lmdb.is_fresh(directory / "data"):  # a process was killed between this and NAME
        return
    if holds_data(directory):
        raise BufferFormatError(
            f"{directory} holds a log but no {NAME}: it cannot be told what the log contains.",
            remedy=f"Put {NAME} back, or run `pixelis buffer repair`.",
        )
    if present:
        raise BufferFormatError(
            f"{directory} is not an experience buffer (it holds {', '.join(present[:5])}): nothing was touched.",
            remedy="Name an empty or missing directory.",
        )


def load_or_create(directory: Path, config: BufferConfig, disk: Disk, *, read_only: bool) -> dict[str, Any]:
    """The directory's identity; made on first use.

    Raises:
        BufferFormatError: missing (read-only), damaged, of a newer format, or of another shape than `config` says.
    """
    path = directory / NAME
    if not path.exists():
        if read_only:
            raise BufferFormatError(f"{directory} is not an experience buffer: {NAME} is missing.")
        if config.adapter == "lmdb":  # before the identity: with one, a missing environment is lost
            store_lmdb.create(directory / "data", disk, config.lmdb_map_bytes)
        content = {"format": FORMAT, "dimension": config.dimension, "adapter": config.adapter, "id": uuid.uuid4().hex}
        replace_file(disk, path, sealed(content))
        disk.sync_directory(directory.parent)
    content = check(read(path), path, config)
    refuse_lost_environment(directory, content)
    return content


def refuse_lost_environment(directory: Path, content: dict[str, Any]) -> None:
    """Raise if an identity's environment is not there: an owner would begin an empty one in its place."""
    if content["adapter"] == "lmdb" and not store_lmdb.exists(directory / "data"):
        raise BufferFormatError(
            f"{store_lmdb.path_of(directory / 'data')} is missing or cut to nothing: all records of {directory} were"
            " in it, and no command can make them from what is left.",
            remedy="Put the file back from a copy, or take an export into a fresh directory with"
            " `pixelis buffer import`.",
        )


def read(path: Path) -> dict[str, Any]:
    """The identity in a file, its checksum verified."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        checksum = content.pop("crc32c")
        good = checksum == crc32c(canonical_json(content).encode()) and _sound(content)
    except (ValueError, KeyError, TypeError, AttributeError):
        good, content = False, {}
    if not good:
        raise damaged(path)
    return content


def _sound(content: dict[str, Any]) -> bool:
    """Whether an identity says what one of this format can; of a newer one nothing else is known."""
    if int(content["format"]) > FORMAT:
        return True
    dimension = content["dimension"]
    return content["adapter"] in ("file", "lmdb") and isinstance(content["id"], str) and int(dimension) == dimension > 0


def damaged(path: Path) -> BufferFormatError:
    """The error for an identity nobody can use."""
    return BufferFormatError(
        f"{path} is damaged: it cannot be told what the buffer contains.",
        remedy="Run `pixelis buffer repair`, which rebuilds it from the records.",
    )


def check(content: dict[str, Any], path: Path, config: BufferConfig) -> dict[str, Any]:
    """Compare with what the caller expects."""
    check_format(content, path.parent)
    for name in ("dimension", "adapter"):
        if content[name] != getattr(config, name):
            raise BufferFormatError(
                f"{path.parent} was made with {name} {content[name]}, the configuration says {getattr(config, name)}.",
                remedy="Change buffer." + name + ", or export and import into a fresh directory.",
            )
    return content


def check_format(content: dict[str, Any], directory: Path) -> None:
    """Raise if the directory has a newer format than this code knows."""
    if content["format"] > FORMAT:
        raise BufferFormatError(
            f"{directory} has format {content['format']}, this code reads up to {FORMAT}: nothing was touched.",
            remedy="Open it with the release that wrote it, or export there and import here.",
        )


def refuse_newer(directory: Path) -> None:
    """`check_format` where the file can be read: a format this code does not know would look like damage."""
    try:
        content = read(directory / NAME)
    except (BufferFormatError, OSError):
        return
    check_format(content, directory)


def holds_data(directory: Path) -> bool:
    """Whether there are records of a buffer, its identity or not."""
    return any(segment_files(directory / "log")) or store_lmdb.holds_records(directory / "data")


def sealed(content: dict[str, Any]) -> bytes:
    """The identity file's bytes, with their checksum."""
    return (canonical_json({**content, "crc32c": crc32c(canonical_json(content).encode())}) + "\n").encode()


def open_store(
    directory: Path, config: BufferConfig, identity: dict[str, Any], disk: Disk, *, read_only: bool
) -> Store:
    """The store the identity names."""
    if config.adapter == "lmdb":
        return LmdbStore(directory / "data", disk, map_bytes=config.lmdb_map_bytes, read_only=read_only)
    return FileStore(directory / "log", identity["id"], disk, segment_bytes=config.segment_bytes,
                     preallocate=config.preallocate, read_only=read_only)  # fmt: skip

"""Artifacts on disk: digests, atomic writes, and the record that says what an artifact is.

Guarantees: `atomic_write` and `staged_directory` leave either the old state or the whole new one, also after kill -9 or
a full disk; `tree_digest` depends on names and bytes only, never on times or order.
Not guaranteed: durability against power loss of the files inside a staged directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.shared.runtime.errors import ArtifactError

RECORD = "artifact.json"


def sha256_bytes(data: bytes) -> str:
    """sha256 (hex) of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 (hex) of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digest(root: Path) -> str:
    """sha256 (hex) over the sorted (relative name, sha256) of all files under `root`, the record file left out."""
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file() and p.name != RECORD):
        digest.update(f"{path.relative_to(root).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def atomic_write(path: Path, data: str | bytes, *, mode: int = 0o644) -> None:
    """Write a file whole or not at all; parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = data.encode() if isinstance(data, str) else data
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically; NaN and infinity are refused."""
    atomic_write(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ArtifactError: the file is missing or not JSON; names it.
    """
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(
            f"{path} is missing, so what depends on it cannot run.", remedy="Run the step that writes it again."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path} is not JSON ({error}).", remedy="Delete the artifact and run its step again."
        ) from error


def make_readable(folder: Path) -> None:
    """Let everybody read what the folder holds: some libraries write through private temporary files, and an artifact
    is read by other users than its maker (a service in a container)."""
    for path in folder.rglob("*"):
        wanted = 0o755 if path.is_dir() else 0o644
        mode = path.stat().st_mode & 0o777
        if not path.is_symlink() and mode & wanted != wanted:  # a link to what is readable anyway is left alone
            path.chmod(mode | wanted)


@contextlib.contextmanager
def staged_directory(target: Path) -> Iterator[Path]:
    """A fresh directory beside `target` that takes its name when the block ends well, and is removed otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{target.name}.staged-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    staged = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.staged-"))
    staged.chmod(0o755)
    try:
        yield staged
        make_readable(staged)
        if target.is_dir():
            shutil.rmtree(target)
        elif target.exists():
            target.unlink()
        os.replace(staged, target)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise

"""`python -m components.ttrl.fetch --into DIR`: brings the promoted model from the object store to its volume.

Role: the init container of the service on a cluster. PIXELIS_MODEL_URI (s3://, minio:// or gs://) and
PIXELIS_MODEL_SHA256 say what to bring; the store's address and keys: components/shared/runtime/stores.py.

    DIR/<sha256>/    a model folder, complete
    DIR/current      link to the one that serves; absent where no model is promoted

Guarantees: `current` never names a folder that is incomplete or whose content has another digest; a model that is
already there is not fetched again; the last two models stay, so that a rollback needs no store.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import sys
from pathlib import Path

from components.shared.runtime.artifacts import tree_digest
from components.shared.runtime.errors import ArtifactError, ConfigError, EnvironmentFault, PixelisError
from components.shared.runtime.logs import configure_logging
from components.shared.runtime.records import read_artifact_record
from components.shared.runtime.stores import fetch_folder

log = logging.getLogger(__name__)
CURRENT = "current"
KEPT_MODELS = 2


def fetch(uri: str, sha256: str, into: Path) -> Path | None:
    """Make `into/current` the model at `uri`.

    Args:
        uri: Folder in the object store; empty where no model is promoted.
        sha256: Digest of the folder's content, hex.
        into: The service's volume.

    Returns:
        The model's folder, None where there is none.

    Raises:
        ConfigError: `sha256` is not a digest.
        ArtifactError: nothing is stored there, or its content has another digest; `current` stays as it was.
    """
    link = into / CURRENT
    if not uri:
        link.unlink(missing_ok=True)
        log.info("no model is promoted yet")
        return None
    if not re.fullmatch("[0-9a-f]{64}", sha256):  # it names a folder that may be replaced: an empty one is the volume
        raise ConfigError(
            f"PIXELIS_MODEL_SHA256 = {sha256!r} is not a sha256 in hex, so {uri} is not fetched.",
            remedy="Promote with the pipeline, or set the digest that the model's artifact.json names.",
        )
    target = into / sha256
    if is_whole(target):
        log.info("%s is already here", sha256[:12])
    else:
        part = into / f".part-{sha256}"
        for left in (part, target):
            shutil.rmtree(left, ignore_errors=True)
        try:
            num_files, size_bytes = fetch_folder(uri, part)
        except EnvironmentFault as error:
            raise EnvironmentFault(
                f"{error.message} The service gets no model.",
                remedy="Check the Secret pixelis-model-store and the network policies.",
            ) from error
        found = tree_digest(part)
        if found != sha256:
            shutil.rmtree(part)
            raise ArtifactError(
                f"{uri} has digest {found[:16]}…, not {sha256[:16]}… as promoted; it is not served.",
                remedy="Run the promotion again; somebody changed or removed files in the store.",
            )
        part.rename(target)
        log.info("fetched %d files, %d bytes from %s", num_files, size_bytes, uri)
    point(link, target)
    forget_others(into, target)
    return target


def is_whole(folder: Path) -> bool:
    """Whether a model is there with every file its record names, at its size."""
    try:
        read_artifact_record(folder)
    except (PixelisError, OSError, KeyError):
        return False
    return True


def point(link: Path, target: Path) -> None:
    """Let the link name the target, in one step."""
    fresh = link.with_name(f".{link.name}.tmp")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target.name)
    fresh.replace(link)


def forget_others(into: Path, keep: Path) -> None:
    """Remove unfinished downloads and all but the newest models."""
    os.utime(keep)
    folders = [path for path in into.iterdir() if path.is_dir() and not path.is_symlink() and path.name != "lost+found"]
    models = sorted((path for path in folders if is_whole(path)), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in folders:
        if path not in models[:KEPT_MODELS]:
            shutil.rmtree(path, ignore_errors=True)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m components.ttrl.fetch")
    parser.add_argument("--into", type=Path, required=True, help="the service's volume for models")
    options = parser.parse_args(argv)
    configure_logging(trace="-", component="fetch")
    try:
        fetch(os.environ.get("PIXELIS_MODEL_URI", ""), os.environ.get("PIXELIS_MODEL_SHA256", ""), options.into)
    except PixelisError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

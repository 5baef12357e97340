"""Folders in object stores, by address: s3://, minio:// (an S3 interface elsewhere) and gs://, through fsspec.

Where keys and the store's address come from is the client libraries' own business: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID
and the rest for the first two, Google's application-default credentials (a workload identity among them) for gs://.

Guarantees: every object under the address is fetched at the size it is listed with, or an error says which is not; an
object whose name leads out of the target is refused before anything is written.
Not guaranteed: a consistent picture of a folder that somebody changes meanwhile. Digests are the caller's to check.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.shared.runtime.errors import ArtifactError, ConfigError, EnvironmentFault

log = logging.getLogger(__name__)
PROTOCOLS = {"s3": "s3", "minio": "s3", "gs": "gcs"}
"""Schemes that are understood, and fsspec's name for the protocol."""
MOUNTS = {"/minio/": "minio://", "/s3/": "s3://", "/gcs/": "gs://"}
"""Where KFP shows the stores to a task, and the scheme each has."""
CLIENTS = ("botocore", "aiobotocore", "aiohttp", "google", "gcsfs")
FORMS = "s3://bucket/folder, minio://bucket/folder or gs://bucket/folder"


def is_address(text: str) -> bool:
    """Whether a text is meant as an address and not as a path."""
    return "://" in text


def object_uri(path: Path) -> str:
    """The store's address of an artifact that KFP shows under a path.

    Raises:
        ConfigError: the artifact is not in an object store.
    """
    for mount, scheme in MOUNTS.items():
        if str(path).startswith(mount):
            return scheme + str(path).removeprefix(mount)
    raise ConfigError(
        f"{path} is not in an object store, so another pod could not fetch it.",
        remedy="Run the pipeline with a pipeline root of the form s3:// or minio://.",
    )


def open_store(uri: str) -> tuple[Any, str]:
    """The file system of an address, and the folder's name in it.

    Raises:
        ConfigError: an address of another kind.
    """
    import fsspec

    parts = urlsplit(uri)
    if parts.scheme not in PROTOCOLS or not parts.netloc:
        raise ConfigError(f"address {uri!r} is not of the form {FORMS}; nothing was read.")
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    try:
        store = fsspec.filesystem(PROTOCOLS[parts.scheme], **options)
    except ImportError as error:
        raise ConfigError(
            f"{uri}: {error}; nothing was read.", remedy="Install the extra `cluster`: pip install 'pixelis[cluster]'"
        ) from error
    return store, f"{parts.netloc}/{parts.path.strip('/')}".rstrip("/")


def fetch_folder(uri: str, into: Path) -> tuple[int, int]:
    """Fetch all objects under an address; returns (files, bytes).

    Raises:
        ConfigError: an address of another kind.
        ArtifactError: nothing there, a name that leads out of the folder, an object of another size than listed.
        EnvironmentFault: the store does not answer or refuses.
    """
    store, root = open_store(uri)
    with explained(uri, "read"):
        found = listed(store, root)
    if not found:
        raise ArtifactError(f"nothing is stored under {uri}.", remedy="Check the address; the last part is a folder.")
    targets = {name: inside(into, name.removeprefix(f"{root}/")) for name in found}
    for target in targets.values():
        target.parent.mkdir(parents=True, exist_ok=True)
    with explained(uri, "read"):
        store.get(list(targets), [str(target) for target in targets.values()])
    for name, target in targets.items():
        size, wanted = target.stat().st_size if target.is_file() else -1, int(found[name]["size"])
        if size != wanted:
            raise ArtifactError(f"{uri}: {name} came as {size} bytes instead of {wanted}; it is not used.")
    return len(found), sum(int(item["size"]) for item in found.values())


def put_folder(folder: Path, uri: str) -> tuple[int, int]:
    """Store all files of a folder under an address; returns (files, bytes).

    Raises:
        ConfigError: an address of another kind.
        EnvironmentFault: the store does not answer or refuses.
    """
    store, root = open_store(uri)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with explained(uri, "written"):
        if files:
            store.put(
                [str(path) for path in files], [f"{root}/{path.relative_to(folder).as_posix()}" for path in files]
            )
    return len(files), sum(path.stat().st_size for path in files)


def find(uri: str) -> dict[str, dict[str, Any]]:
    """What the store says of every object under an address, by its name there."""
    store, root = open_store(uri)
    with explained(uri, "read"):
        return {name.removeprefix(f"{root}/"): item for name, item in listed(store, root).items()}


def exists(uri: str) -> bool:
    """Whether anything is stored under an address."""
    return bool(find(uri))


def remove_folder(uri: str) -> None:
    """Remove all objects under an address, where there are any."""
    store, root = open_store(uri)
    with explained(uri, "changed"):
        if listed(store, root):
            store.rm(root, recursive=True)


def forget_folder(uri: str) -> None:
    """Remove what a step that is done has no more use for; what cannot be removed costs room, never the step."""
    try:
        remove_folder(uri)
    except EnvironmentFault as error:
        log.warning("%s could not be removed: %s", uri, error)


def listing_digest(place: str) -> str:
    """sha256 over names, sizes and times (or the store's own digests) of what lies under a folder or an address.

    Empty for a folder that does not exist here: whoever reads it may see more.

    Raises:
        ConfigError, EnvironmentFault: an address that cannot be read.
    """
    if is_address(place):
        lines = [f"{name}\0{item['size']}\0{changed(item)}" for name, item in find(place).items()]
    else:
        folder = Path(place)
        if not folder.is_dir():
            return ""
        lines = []
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                facts = path.stat()
                lines.append(f"{path.relative_to(folder).as_posix()}\0{facts.st_size}\0{facts.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def changed(item: dict[str, Any]) -> str:
    """What a store says of an object's content: its digest, else when it was written."""
    return str(item.get("ETag") or item.get("md5Hash") or written(item))


def written(item: dict[str, Any]) -> str:
    """When an object was written, as the store words it; sorts by time."""
    return str(item.get("LastModified") or item.get("updated") or item.get("mtime") or "")


def listed(store: Any, root: str) -> dict[str, dict[str, Any]]:
    """Objects under a folder, sorted; the empty objects some tools keep for folders are left out."""
    try:
        found = store.find(root, detail=True)
    except FileNotFoundError:
        bucket = root.partition("/")[0]
        if not store.exists(bucket):
            raise
        return {}
    return {name: item for name, item in sorted(found.items()) if name != root and not name.endswith("/")}


def inside(folder: Path, name: str) -> Path:
    """A path under a folder; a name that leads out of it is refused."""
    target = (folder / name).resolve()
    if not name or not target.is_relative_to(folder.resolve()):
        raise ArtifactError(f"object name {name!r} leads out of {folder}; nothing of it is used.")
    return target


@contextmanager
def explained(uri: str, done: str) -> Iterator[None]:
    """Turn what the client libraries raise into an error that names the address."""
    try:
        yield
    except Exception as error:  # botocore, aiohttp and google.auth each have a hierarchy of their own
        family = type(error).__module__.partition(".")[0]
        if not isinstance(error, OSError) and family not in CLIENTS:
            raise
        raise EnvironmentFault(
            f"{uri} cannot be {done} ({type(error).__name__}: {error}).",
            remedy="Check the store's address and keys in the environment, and that this pod's network reaches it.",
        ) from error

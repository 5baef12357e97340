"""A downloaded base: pinned revision, allow-list of files, safetensors only, digests checked and recorded.

A local folder is accepted in place of the hub, and is what tests and machines without a network use: either the
repository's files, or the hub's own cache folder (`models--OWNER--NAME` with `snapshots/REVISION` in it).
Guarantees: nothing but the allow-list and the weight files that the index names reaches the base; weights that are
truncated, pickled or outside the folder are refused; a killed download goes on with the files it had not finished (the
client begins such a file anew).
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from components.base_model.config import HubConfig
from components.shared.runtime.artifacts import sha256_file
from components.shared.runtime.errors import ArtifactError, EnvironmentFault

log = logging.getLogger(__name__)
REQUIRED = ("config.json", "tokenizer.json")
WEIGHTS, WEIGHT_INDEX = "model.safetensors", "model.safetensors.index.json"
BESIDE_WEIGHTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "chat_template.json",
    WEIGHT_INDEX,
)
ALLOWED = (*BESIDE_WEIGHTS, WEIGHTS, "model-*-of-*.safetensors")
"""What is downloaded; which weight files are the model's, its index says."""


def provide(config: HubConfig, target: Path, work: Path) -> dict[str, str]:
    """Put the base's files into `target`; returns the digest of each.

    Args:
        config: Which base.
        target: Folder of the base.
        work: Survives a kill: where an unfinished download waits.

    Raises:
        ArtifactError: a file is missing, damaged or has another digest.
        EnvironmentFault: the hub cannot be reached; names the missing files and how to provide them.
    """
    source = snapshot_in(Path(config.path), config) if config.path else download(config, work)
    check(source, config)
    digests = {}
    for name in (*BESIDE_WEIGHTS, *shards_of(source)):
        if (source / name).is_file():
            place(source / name, target / name)
            digests[name] = sha256_file(source / name)
    return digests


def download(config: HubConfig, work: Path) -> Path:
    """The folder of the pinned snapshot: the machine's own cache where it is whole, else downloaded into `work`."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted: dict[str, Any] = {"revision": config.revision, "allow_patterns": list(ALLOWED)}
    try:
        cached = Path(snapshot_download(config.repo, **wanted, local_files_only=True))
        if not missing_from(cached):
            return cached
    except (LocalEntryNotFoundError, OSError):
        log.info("%s at %s is not in this machine's cache", config.repo, config.revision)
    try:
        return Path(snapshot_download(config.repo, **wanted, cache_dir=work / "hub"))
    except Exception as error:  # the client raises its HTTP library's own errors, which share no base with OSError
        found = sorted((work / "hub").glob(f"models--*/snapshots/{config.revision}"))
        missing = missing_from(found[0]) if found else [*REQUIRED, f"{WEIGHTS} (or its index and shards)"]
        raise EnvironmentFault(
            f"{config.repo} at {config.revision} is not on this machine and cannot be downloaded "
            f"({type(error).__name__}); missing: {', '.join(missing)}.",
            remedy="Set base_model.hub.path to a folder that holds these files, or give the machine a network.",
        ) from error


def snapshot_in(path: Path, config: HubConfig) -> Path:
    """The folder that holds the files: `path` itself, or the pinned snapshot in a cache folder of the hub."""
    snapshots = path / "snapshots"
    if not snapshots.is_dir():
        return path
    found = sorted(item.name for item in snapshots.iterdir() if item.is_dir())
    wanted = config.revision or (found[0] if len(found) == 1 else "")
    if wanted not in found:
        raise ArtifactError(
            f"{path} holds the snapshots {', '.join(found) or 'none'}, not {config.revision or 'a single one'}.",
            remedy="Set base_model.hub.revision to one of them, or give the snapshot's own folder.",
        )
    return snapshots / wanted


def missing_from(source: Path) -> list[str]:
    """Names of needed files that a folder lacks."""
    return [name for name in (*REQUIRED, *shards_of(source)) if not (source / name).is_file()]


def check(source: Path, config: HubConfig) -> None:
    """Refuse a folder that lacks files, holds only pickled weights, is damaged, or whose digests differ."""
    if not source.is_dir():
        raise ArtifactError(f"base_model.hub.path = {source} is no folder.", remedy="Give a folder in hub layout.")
    missing = missing_from(source)
    if missing:
        raise ArtifactError(
            f"{source} lacks {', '.join(missing)}, so there is no base to load.",
            remedy="Provide the files of the model's repository, weights as safetensors.",
        )
    for name in shards_of(source):
        try:
            with safe_open(source / name, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise ArtifactError(
                f"{source / name} is no whole safetensors file ({error}), so it is not used.",
                remedy="Download it again.",
            ) from error
    for name, expected in config.sha256.items():
        found = sha256_file(source / name) if (source / name).is_file() else "nothing"
        if found != expected:
            raise ArtifactError(f"{source / name} has sha256 {found[:12]}, expected {expected[:12]}: it is not used.")


def shards_of(source: Path) -> list[str]:
    """Names of the weight files the folder must hold."""
    index = source / WEIGHT_INDEX
    if not index.is_file():
        return [WEIGHTS]
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        strange = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
        if strange:
            raise ValueError(f"it names {strange[0]!r}, which is no safetensors file beside it")
        return names
    except (ValueError, KeyError, AttributeError) as error:
        raise ArtifactError(f"{index} is no weight index ({error}).", remedy="Download it again.") from error


def place(source: Path, target: Path) -> None:
    """Hard-link where the file system allows it, else copy: weights are large."""
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)

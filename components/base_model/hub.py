"""A downloaded base: pinned revision, allow-list of files, safetensors only, digests checked.

A local folder in hub layout is accepted in place of the hub, and is what tests and machines without a network use.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from components.base_model.config import HubConfig
from components.shared.runtime.artifacts import sha256_file
from components.shared.runtime.errors import ArtifactError, EnvironmentFault

REQUIRED = ("config.json", "tokenizer.json")
ALLOWED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "chat_template.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
)


def provide(config: HubConfig, target: Path) -> None:
    """Put the base's files into `target`.

    Raises:
        ArtifactError: a file is missing or has another digest.
        EnvironmentFault: the hub cannot be reached; names the files and how to provide them.
    """
    source = Path(config.path) if config.path else download(config)
    check(source, config)
    for pattern in ALLOWED:
        for path in sorted(source.glob(pattern)):
            place(path, target / path.name)


def download(config: HubConfig) -> Path:
    """The folder of the pinned snapshot; downloads what is not there yet (an interrupted download goes on)."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(config.repo, revision=config.revision, allow_patterns=list(ALLOWED)))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise EnvironmentFault(
            f"{config.repo} at {config.revision} is not on this machine and cannot be downloaded "
            f"({type(error).__name__}); needed are {', '.join(ALLOWED)} (not all models have all).",
            remedy="Set base_model.hub.path to a folder that holds these files, or give the machine a network.",
        ) from error


def check(source: Path, config: HubConfig) -> None:
    """Refuse a folder that lacks files, holds only pickled weights, or whose digests differ."""
    if not source.is_dir():
        raise ArtifactError(f"base_model.hub.path = {source} is no folder.", remedy="Give a folder in hub layout.")
    missing = [name for name in (*REQUIRED, *shards_of(source)) if not (source / name).is_file()]
    if missing:
        raise ArtifactError(
            f"{source} lacks {', '.join(missing)}, so there is no base to load.",
            remedy="Provide the files of a Qwen2.5-VL repository, weights as safetensors.",
        )
    for name, expected in config.sha256.items():
        found = sha256_file(source / name) if (source / name).is_file() else "nothing"
        if found != expected:
            raise ArtifactError(f"{source / name} has sha256 {found[:12]}, expected {expected[:12]}: it is not used.")


def shards_of(source: Path) -> list[str]:
    """Names of the weight files the folder must hold."""
    index = source / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"]
    try:
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise ArtifactError(f"{index} is no weight index ({error}).", remedy="Download it again.") from error


def place(source: Path, target: Path) -> None:
    """Hard-link where the file system allows it, else copy: weights are large."""
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)

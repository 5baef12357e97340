"""The index of an artifact made of shards: what it holds, how much, and how to know that it is whole.

`index.json` names every shard and side file with count, size and sha256; readers open only what it names. The `facts`
are the small things later steps need without opening a shard (labels, frames a clip, sampler).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from components.shared.runtime.artifacts import read_json, sha256_file, write_json
from components.shared.runtime.config import Section
from components.shared.runtime.errors import ArtifactError
from components.shared.samples.reading import read_samples
from components.shared.samples.shards import ShardRecord

INDEX = "index.json"


class ShardIndex(Section):
    """Contents of an artifact of shards."""

    version: int = 1
    kind: Literal["clips", "trajectories"]
    provenance: Literal["synthetic", "real"]
    shards: dict[str, tuple[ShardRecord, ...]] = Field(default_factory=dict)
    """Shards by split, in reading order."""
    files: dict[str, ShardRecord] = Field(default_factory=dict)
    """Side files (questions) by name; `count` is their number of lines."""
    facts: dict[str, Any] = Field(default_factory=dict)
    """Small facts for later steps."""

    def count(self, split: str) -> int:
        """Samples of a split, 0 where there is none."""
        return sum(shard.count for shard in self.shards.get(split, ()))


def read_index(artifact: Path) -> ShardIndex:
    """Read and validate an artifact's index.

    Raises:
        ArtifactError: the index is missing, not JSON or of another form.
    """
    try:
        return ShardIndex.model_validate(read_json(artifact / INDEX))
    except ValueError as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(
            f"{artifact / INDEX} is not an index of shards ({str(error).splitlines()[0]}).",
            remedy="Run the step that writes it again.",
        ) from error


def write_index(artifact: Path, index: ShardIndex) -> None:
    """Write an artifact's index."""
    write_json(artifact / INDEX, index.model_dump(mode="json"))


def check_file(artifact: Path, record: ShardRecord) -> str:
    """Why a shard or side file is not what its record says, '' when it is."""
    path = artifact / record.name
    if not path.is_file():
        return f"{record.name} is missing"
    size = path.stat().st_size
    if size != record.bytes:
        return f"{record.name} has {size} bytes, its record says {record.bytes}"
    digest = sha256_file(path)
    if digest != record.sha256:
        return f"{record.name} has sha256 {digest[:12]}…, its record says {record.sha256[:12]}…"
    return ""


def verify_artifact(artifact: Path) -> ShardIndex:
    """Check size and digest of every file the index names, and the number of samples in every shard.

    Raises:
        ArtifactError: names every bad file and what is wrong with it.
    """
    index = read_index(artifact)
    faults = []
    for record in (*(shard for shards in index.shards.values() for shard in shards), *index.files.values()):
        fault = check_file(artifact, record)
        if not fault and record.name.endswith(".tar"):
            count = sum(1 for _ in read_samples(artifact / record.name))
            fault = "" if count == record.count else f"{record.name} holds {count} samples, not {record.count}"
        if fault:
            faults.append(fault)
    if faults:
        raise ArtifactError(
            f"{artifact}: {'; '.join(faults)}. Nothing may be read from it.",
            remedy="Run the step that writes it again.",
        )
    return index

"""Checkpoints of training: tensors in safetensors, small state in JSON, whole or not at all.

Layout of a checkpoints folder:

    step-00000050/tensors.safetensors
    step-00000050/state.json            {"step", "key", "sha256" of the tensors, "state"}

Guarantees: a checkpoint appears by a rename of its finished folder; `newest` skips one that is cut, altered or of
another configuration, says so and names the last good one it uses instead; the last `KEEP` stay.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from components.shared.runtime.artifacts import read_json, sha256_file, staged_directory, write_json
from components.shared.runtime.errors import ArtifactError

TENSORS, STATE, KEEP = "tensors.safetensors", "state.json", 2
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A training state after `step` steps."""

    step: int
    tensors: dict[str, torch.Tensor] = field(repr=False)
    state: dict[str, Any]


def save(folder: Path, key: str, step: int, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> Path:
    """Write a checkpoint; `key` names configuration and data, and a checkpoint of another key is never resumed."""
    target = folder / f"step-{step:08d}"
    with staged_directory(target) as staged:
        save_file(
            {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, staged / TENSORS
        )
        record = {"step": step, "key": key, "sha256": sha256_file(staged / TENSORS), "state": dict(state)}
        write_json(staged / STATE, record)
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load(path: Path, key: str) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        ArtifactError: cut, altered, or of another configuration; says which.
    """
    record = read_json(path / STATE)
    if record.get("key") != key:
        raise ArtifactError(f"checkpoint {path.name} is of another configuration or other data.")
    if not (path / TENSORS).is_file() or sha256_file(path / TENSORS) != record.get("sha256"):
        raise ArtifactError(f"checkpoint {path.name} is damaged: its tensors are not those it was written with.")
    try:
        tensors = load_file(path / TENSORS)
    except SafetensorError as error:
        raise ArtifactError(f"checkpoint {path.name} is damaged ({error}).") from error
    return Checkpoint(int(record["step"]), tensors, record["state"])


def newest(folder: Path, key: str) -> Checkpoint | None:
    """The newest good checkpoint, None where there is none."""
    refused = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            found = load(path, key)
        except ArtifactError as error:
            refused.append(str(error))
            continue
        if refused:
            log.warning("%s Training goes on from the last good one, %s.", " ".join(refused), path.name)
        return found
    if refused:
        log.warning("%s There is no other; training starts afresh.", " ".join(refused))
    return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """An optimiser's state as flat tensors, `optimizer.<parameter>.<name>`."""
    return {
        f"optimizer.{number}.{name}": value
        for number, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    whole = optimizer.state_dict()
    whole["state"] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, kind = name.split(".", 2)
            whole["state"].setdefault(int(number), {})[kind] = value.clone()
    optimizer.load_state_dict(whole)

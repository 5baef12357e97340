"""Checkpoints of the alignment's training: weights, optimiser and step in one safetensors file, replaced whole.

A step's batch depends only on (seed, step), so no random state is kept. A damaged file, or one of another
configuration, is refused by name and training starts afresh.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

log = logging.getLogger(__name__)
FILE = "checkpoint.safetensors"


def save_checkpoint(work: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int, key: str) -> None:
    """Write the state after `step` steps; `key` names configuration and data."""
    tensors = {f"model.{name}": tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value.clone() for name, value in state.items()}
    partial = work / f".{FILE}.partial"
    save_file(tensors, partial, metadata={"step": str(step), "key": key})
    os.replace(partial, work / FILE)


def load_checkpoint(work: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, key: str) -> int:
    """Restore the last checkpoint and return its step; 0 where there is none that fits."""
    path = work / FILE
    if not path.is_file():
        return 0
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if about.get("key") != key:
                log.warning("%s is of another configuration or other data; training starts afresh", path.name)
                return 0
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except (OSError, SafetensorError) as error:
        log.warning("%s is damaged (%s); training starts afresh", path.name, error)
        return 0
    model.load_state_dict({name.removeprefix("model."): x for name, x in tensors.items() if name.startswith("model.")})
    restored = optimizer.state_dict()
    restored["state"] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, kind = name.split(".", 2)
            restored["state"].setdefault(int(number), {})[kind] = value
    optimizer.load_state_dict(restored)
    log.info("resumed after step %s", about["step"])
    return int(about["step"])

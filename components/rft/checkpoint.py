"""Checkpoints of reinforcement: what a killed step needs to go on where it was.

Layout of the work folder: `step-NNNNNN.pt` (tensors, read with weights_only) named with its sha256 in
`step-NNNNNN.json`, which is written last; the two newest are kept. `rollouts.jsonl` grows by a line a rollout.

Guarantees: a checkpoint is whole or not used; with sampling seeded by the step's number, a resumed run makes the same
updates as one never interrupted (bit for bit on the CPU). Not guaranteed: the same *number* of updates where the time
budget ends the training.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.rft.update import Learner, assign
from components.rft.validation import Validation
from components.shared.learning.rewards.curiosity import Novelty
from components.shared.learning.rewards.orchestrator import Orchestrator
from components.shared.runtime.artifacts import atomic_write, read_json, sha256_file, write_json
from components.shared.runtime.errors import ArtifactError

ROLLOUTS = "rollouts.jsonl"
KEPT = 2
log = logging.getLogger(__name__)


@dataclass
class State:
    """Where the training is.

    Attributes:
        step: Updates done.
        seconds: Time they took, over all attempts.
        history: Figures of every update.
        before: Validation of the policy that came in.
    """

    before: Validation
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def save(work: Path, state: State, learner: Learner, orchestrator: Orchestrator, novelty: Novelty | None) -> None:
    """Write a checkpoint and remove all but the newest two; rank 0's are everybody's."""
    if not learner.group.writes:
        return
    tensors = {
        "parameters": [parameter.detach().cpu() for parameter in learner.policy.trainable_parameters()],
        "reference": learner.reference,
        "optimizer": learner.optimizer.state_dict(),
        "seen": torch.from_numpy(novelty.seen) if novelty is not None and novelty.seen is not None else None,
    }
    path = work / f"step-{state.step:06d}.pt"
    partial = path.with_name(f".{path.name}.partial")  # a name with a dot is not copied to a store
    torch.save(tensors, partial)
    partial.replace(path)
    record = {
        "sha256": sha256_file(path),
        "step": state.step,
        "seconds": state.seconds,
        "history": state.history,
        "running": orchestrator.running,
        "before": {"figures": state.before.figures, "right": state.before.right},
    }
    write_json(path.with_suffix(".json"), record)
    for old in sorted(work.glob("step-*.json"))[:-KEPT]:
        old.unlink()
        old.with_suffix(".pt").unlink(missing_ok=True)


def restore(work: Path, learner: Learner, orchestrator: Orchestrator, novelty: Novelty | None) -> State | None:
    """Go back to the newest whole checkpoint that rank 0 finds, None where there is none."""
    group = learner.group
    found = group.agreed(_newest(work) if group.writes else None)
    if group.writes:
        _cut_rollouts(work / ROLLOUTS, found[0]["step"] if found else 0)
    if found is None:
        return None
    record, tensors = found
    assign(learner.policy.trainable_parameters(), tensors["parameters"])
    learner.reference = tensors["reference"]
    learner.optimizer.load_state_dict(tensors["optimizer"])
    orchestrator.running = record["running"]
    if novelty is not None:
        novelty.seen = None if tensors["seen"] is None else tensors["seen"].numpy()
    log.info("resumed after update %d", record["step"])
    return State(Validation(**record["before"]), record["step"], record["seconds"], record["history"])


def append_rollouts(work: Path, records: Iterable[dict[str, Any]]) -> None:
    """Add one line a rollout to the log."""
    with open(work / ROLLOUTS, "a") as file:
        file.writelines(json.dumps(record, allow_nan=False, default=_plain) + "\n" for record in records)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _newest(work: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    for path in sorted(work.glob("step-*.json"), reverse=True):
        try:
            return _read(path)
        except ArtifactError as error:
            log.warning("%s Trying the one before.", error)
    return None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    record = read_json(path)
    tensors = path.with_suffix(".pt")
    if not tensors.is_file() or sha256_file(tensors) != record["sha256"]:
        raise ArtifactError(f"the checkpoint {tensors} is missing or damaged, so it is not used.")
    return record, torch.load(tensors, map_location="cpu", weights_only=True)


def _cut_rollouts(path: Path, step: int) -> None:
    """Drop the rollouts of updates that the checkpoint does not know."""
    if path.is_file():
        kept = [line for line in path.read_text(errors="replace").splitlines() if _step_of(line) < step]
        atomic_write(path, "".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float:
    """The update a rollout belongs to; infinite for the line a kill cut, wherever it was cut."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf

"""The guard between an update and the people who are served: canary verdicts, published adapters, rollback.

Role: decides whether a candidate adapter may be served, keeps every published adapter as an immutable directory named
by its digest, and records every update with its figures, the refused ones too.

State under `<state>/`:

    adapters/<digest>/    adapter files, never changed after the rename that published them
    serving.json          which adapter serves, for which promoted model, and what served before (for rollback)
    updates.jsonl         one `UpdateRecord` a line, oldest first

Guarantees: a candidate whose canary accuracy fell is never published; publishing is one rename and one atomic pointer
write, so after kill -9 the service starts with the old adapter or the new one, whole. A digest that does not match its
directory is refused. A newly promoted model retires the adapters made from the old one.
Not guaranteed: that the canary represents the deployment; it is what was labelled at promotion.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from components.shared.runtime.artifacts import read_json, write_json
from components.shared.runtime.config import Section
from components.shared.runtime.errors import ArtifactError, InputError
from components.ttrl.lines import append_line

Status = Literal[
    "accepted", "rejected", "withheld", "unchanged", "skipped", "failed", "rolled_back", "retired", "resumed"
]
"""`rejected` is the canary's word, `withheld` a good candidate that an operator's act overtook."""


class CanaryFigures(Section):
    """How an adapter did on the labelled canary questions, answered greedily."""

    accuracy: float
    """Part answered right (operation or value equal to the truth); unparsable counts as wrong."""
    num_right: int
    num_questions: int


class UpdateRecord(Section):
    """One update, whatever became of it."""

    update_id: str
    at: float
    """Unix time, seconds."""
    status: Status
    reason: str = ""
    model_digest: str = ""
    adapter_before: str = ""
    adapter_after: str = ""
    """Digest of the candidate; the one that serves only where status is `accepted` (or `rolled_back`)."""
    canary_before: CanaryFigures | None = None
    canary_after: CanaryFigures | None = None
    canary_anchor: CanaryFigures | None = None
    changed_answers: int = 0
    """Canary questions whose greedy answer changed."""
    num_experiences: int = 0
    num_rollouts: int = 0
    learning_rate: float = 0.0
    weight_change: float = 0.0
    """L2 norm of the difference between the weights before and after."""
    figures: dict[str, float] = Field(default_factory=dict)
    """What the optimiser reported: loss, kl, grad_norm, mean_reward, dropped_groups."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate may be published, and why not."""

    status: Literal["accepted", "rejected", "unchanged"]
    reason: str = ""


def judge(
    *,
    digest_before: str,
    digest_after: str,
    before: CanaryFigures,
    after: CanaryFigures,
    anchor: CanaryFigures,
    tolerance: float,
) -> Verdict:
    """The verdict on a candidate.

    An update that changes no weight is none. Otherwise the canary accuracy may fall by at most `tolerance`, against
    the adapter in use *and* against the promoted one (else many small falls would add up).
    """
    if digest_after == digest_before:
        return Verdict("unchanged", "no weight changed, so there is nothing to publish")
    if after.num_questions == 0 or after.num_questions != before.num_questions:
        return Verdict(
            "rejected", f"canary incomplete: {after.num_questions} of {before.num_questions} questions answered"
        )
    for name, figures in (("the adapter in use", before), ("the promoted adapter", anchor)):
        if after.accuracy < figures.accuracy - tolerance - 1e-9:
            fall = f"canary accuracy fell from {figures.accuracy:.4f} ({name}) to {after.accuracy:.4f}"
            return Verdict("rejected", f"{fall}, more than the tolerance {tolerance:g}")
    return Verdict("accepted")


class Ledger:
    """Append-only file of update records; each is on disk when `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.records = self._read()

    def append(self, record: UpdateRecord) -> None:
        """Add a record durably."""
        with self._lock:
            append_line(self.path, record.canonical())
            self.records.append(record)

    def _read(self) -> list[UpdateRecord]:
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):  # the line a crash cut: its record was never acknowledged
            os.truncate(self.path, len(whole))
        records = []
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                records.append(UpdateRecord.model_validate(json.loads(line)))
            except ValueError as error:
                raise ArtifactError(
                    f"{self.path}:{number}: not an update record ({type(error).__name__}), so the history is not to be "
                    "trusted.",
                    remedy="Move the file aside; adapters are kept, only their history starts anew.",
                ) from error
        return records


class AdapterStore:
    """Published adapters of one state directory; used by the serving process alone."""

    def __init__(self, state_dir: Path, model_digest: str, *, keep: int) -> None:
        self.root = state_dir / "adapters"
        self._pointer = state_dir / "serving.json"
        self._keep = keep
        self.model_digest = model_digest
        self.lock = threading.RLock()
        """Held while an adapter is published or rolled back and put into service."""
        self.retired: str = ""
        """Digest of an adapter that a newly promoted model has just retired, empty where none was."""
        self.root.mkdir(parents=True, exist_ok=True)
        state = read_json(self._pointer) if self._pointer.exists() else {}
        if state.get("model_digest") == model_digest:
            self.history: list[str] = list(state["history"])
        else:
            self.history = []
            self.retired = state["history"][-1] if state.get("history") else ""
            self._save()

    @property
    def current(self) -> str:
        """Digest of the adapter that should serve; empty for the promoted one."""
        return self.history[-1] if self.history else ""

    def directory(self, digest: str) -> Path:
        """Folder of a published adapter."""
        return self.root / digest

    def publish(self, candidate: Path, digest: str, *, check: Callable[[Path], str] | None = None) -> Path:
        """Make a candidate directory the serving adapter.

        Args:
            candidate: Complete adapter folder on the same filesystem; moved.
            digest: What the adapter claims to be.
            check: Recomputes the digest from the folder's content.

        Raises:
            ArtifactError: the content does not have the digest it claims.
        """
        if check is not None and (found := check(candidate)) != digest:
            raise ArtifactError(
                f"candidate adapter {candidate.name} has digest {found}, not {digest}: it is not published."
            )
        target = self.directory(digest)
        if not target.exists():
            for path in candidate.rglob("*"):
                if path.is_file():
                    with open(path, "rb") as file:
                        os.fsync(file.fileno())
                    path.chmod(0o444)
            candidate.rename(target)
            _sync_directory(self.root)
        self.history.append(digest)
        self._save()
        self._prune()
        return target

    def rollback(self) -> str:
        """Go back to what served before; returns its digest, empty for the promoted adapter.

        Raises:
            InputError: the promoted adapter serves already.
        """
        if not self.history:
            raise InputError("the promoted adapter serves already, so there is nothing to roll back to.")
        self.history.pop()
        self._save()
        return self.current

    def _save(self) -> None:
        write_json(self._pointer, {"model_digest": self.model_digest, "history": self.history, "at": time.time()})

    def _prune(self) -> None:
        self.history = self.history[-self._keep :]
        self._save()
        for path in self.root.iterdir():
            if path.is_dir() and path.name not in self.history:
                shutil.rmtree(path, ignore_errors=True)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

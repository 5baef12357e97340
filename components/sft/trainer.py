"""The fine-tuning loop: accumulation, curriculum, validation, checkpoints, exact resume.

A plain loop over `DecoderPolicy.forward_rows` and not a library's trainer, because what this step is about lies across
a trainer's seams: the loss mask comes from messages, frozen vision features are cached and scattered in, the curriculum
restores weights and optimiser together, and a killed run must go on bit for bit (docs/decisions/0006).
Several processes (group.py) each take their part of every batch; gradients and counts are summed before the step, so
the global batch and its loss are those of one process up to rounding. Rank 0 alone writes checkpoints.
Guarantees on CPU: the weights after step n depend on inputs, section and n only, however often the run was killed. That
holds because batches depend on (seed, step, stage) alone, features are computed once in a fixed order, the learning
rate is a function of the step, and a checkpoint holds all the rest.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.nn import functional

from components.sft.config import SftConfig
from components.sft.curriculum import STAGES, CurriculumState, Decision, observe, start
from components.sft.material import Lessons, ReadAhead
from components.shared.learning import checkpoint
from components.shared.learning.finite import check_finite
from components.shared.learning.group import Group
from components.shared.policy.decoder import DecoderPolicy
from components.shared.policy.layout import Encoded
from components.shared.runtime.live import LiveCurves
from components.shared.runtime.progress import Progress

log = logging.getLogger(__name__)
Tensors = dict[str, torch.Tensor]
STRETCH = 1.25
"""A micro batch is padded to its longest row: by this much at most."""


@dataclass
class Run:
    """Everything that changes while training."""

    curriculum: CurriculumState
    step: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    stale: int = 0
    best: Tensors = field(default_factory=dict, repr=False)
    snapshot: Tensors = field(default_factory=dict, repr=False)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def note(self, name: str, value: float) -> None:
        """Append to a curve."""
        self.curves.setdefault(name, []).append((float(self.step), value))


class Trainer:
    """Trains a policy's adapter.

    Args:
        policy: With a fresh adapter.
        config: The section.
        train: Training conversations by stage.
        validation: Validation conversations.
        work: Folder that survives a kill.
        key: Names configuration and data of a checkpoint.
        group: The processes that train together.
    """

    def __init__(
        self,
        policy: DecoderPolicy,
        config: SftConfig,
        train: Lessons,
        validation: Sequence[Encoded],
        work: Path,
        key: str,
        group: Group | None = None,
    ) -> None:
        self.group = group or Group(config.device)
        self.policy, self.config, self.lessons, self.validation = policy, config, train, validation
        self.reading = ReadAhead()
        self.folder, self.key = work / "checkpoints", key
        self.parameters = policy.trainable_parameters()
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, weight_decay=0.0)
        self.run = Run(start(train.counts(), enabled=config.curriculum.enabled))
        self.resumed_from = self.restore()
        self.live = LiveCurves(enabled=False)
        self._saved = time.monotonic()

    # -- the loop ----------------------------------------------------------------------------------------------------

    def fit(self) -> Run:
        """Train to the last step, or until validation stops improving; the best adapter is on the policy afterwards."""
        config, run = self.config, self.run
        bar = Progress(config.steps, "fine-tuning", unit="steps")
        bar.advance(run.step)
        with LiveCurves(enabled=self.group.writes) as self.live:
            self.take_steps(bar)
        self.policy.set_adapter_state(run.best)
        return run

    def take_steps(self, bar: Progress) -> None:
        """The steps that are left."""
        config, run = self.config, self.run
        if run.step == 0:
            self.validate()
        while run.step < config.steps and not self.is_done():
            loss = self.train_step()
            run.step += 1
            self.note(loss=loss)
            if run.step % config.validate_every == 0 or run.step == config.steps:
                self.validate()
            bar.advance(note=f"{STAGES[run.curriculum.stage]}, loss {loss:.3f}")
            overdue = time.monotonic() - self._saved > config.checkpoint_s
            if run.step % config.checkpoint_every == 0 or overdue or run.step == config.steps:
                self.save()

    def note(self, **values: float) -> None:
        """Append to curves, here and in MLflow."""
        for name, value in values.items():
            self.run.note(name, value)
        self.live.note(self.run.step, **values)

    def is_done(self) -> bool:
        """Early stop: the last stage, and no better validation loss for `early_stop` evaluations."""
        limit, run = self.config.early_stop, self.run
        return bool(limit) and run.curriculum.stage == run.curriculum.last and run.stale >= limit

    def train_step(self) -> float:
        """One optimiser step over the effective batch; returns its mean loss a learned token."""
        config, run = self.config, self.run
        rate = learning_rate(run.step, config.steps, config.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        pool = self.lessons.upto(run.curriculum.stage)
        batch = self.reading.batch(pool, config.seed, run.step, config.batch, self.group.part)
        self.optimizer.zero_grad(set_to_none=True)
        summed, count = torch.zeros((), device=self.policy.device), 0
        for part in micro_batches(batch, config.micro_batch):
            logits, _, targets = self.policy.forward_rows(part)
            loss = functional.cross_entropy(logits, targets, reduction="sum")
            loss.backward()
            summed, count = summed + loss.detach(), count + targets.numel()
        total, tokens = self.group.total(float(summed), float(count))
        check_finite(total, f"the loss of step {run.step}", "sft")
        self.group.sum_gradients(self.parameters)
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad /= max(tokens, 1.0)
        torch.nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm)
        self.optimizer.step()
        return total / max(tokens, 1.0)

    # -- validation and curriculum -----------------------------------------------------------------------------------

    def validate(self) -> None:
        """Measure on validation trajectories, keep the best adapter, act on the curriculum's decision."""
        run = self.run
        loss, score = measure(self.policy, self.validation, self.config.micro_batch, self.group)
        self.note(validation_loss=loss, validation_score=score, stage=float(run.curriculum.stage))
        if loss < run.best_loss:
            run.best_loss, run.best_step, run.stale = loss, run.step, 0
            run.best = self.policy.adapter_state()
        else:
            run.stale += 1
        if run.step == 0:
            return
        run.curriculum, decision = observe(run.curriculum, score, self.config.curriculum)
        if decision is Decision.ADVANCE:
            run.snapshot = self.training_tensors()
            log.info("step %d: stage %s begins", run.step, STAGES[run.curriculum.stage])
        elif decision is Decision.ROLLBACK:
            self.load_training_tensors(run.snapshot)
            run.snapshot = {}
            log.info("step %d: the stage made validation worse; back to %s", run.step, STAGES[run.curriculum.stage])

    # -- state -------------------------------------------------------------------------------------------------------

    def training_tensors(self) -> Tensors:
        """Copies of adapter and optimiser."""
        own = {f"adapter.{name}": value for name, value in self.policy.adapter_state().items()}
        return own | {name: value.clone() for name, value in checkpoint.optimizer_tensors(self.optimizer).items()}

    def load_training_tensors(self, tensors: Tensors) -> None:
        """Put adapter and optimiser back."""
        self.policy.set_adapter_state(strip(tensors, "adapter."))
        checkpoint.restore_optimizer(self.optimizer, tensors)

    def save(self) -> None:
        """Write a checkpoint; rank 0's are everybody's."""
        self._saved = time.monotonic()
        if not self.group.writes:
            return
        run = self.run
        tensors = self.training_tensors()
        tensors |= {f"best.{name}": value for name, value in run.best.items()}
        tensors |= {f"snapshot.{name}": value for name, value in run.snapshot.items()}
        state = {
            "curriculum": run.curriculum.to_json(),
            "best_loss": run.best_loss,
            "best_step": run.best_step,
            "stale": run.stale,
            "curves": run.curves,
        }
        checkpoint.save(self.folder, self.key, run.step, tensors, state)

    def restore(self) -> int:
        """Go on from the newest good checkpoint that rank 0 finds; returns its step, 0 where there is none."""
        found = self.group.agreed(checkpoint.newest(self.folder, self.key) if self.group.writes else None)
        if found is None:
            return 0
        run, state = self.run, found.state
        self.load_training_tensors(found.tensors)
        run.step, run.best_loss, run.best_step = found.step, state["best_loss"], state["best_step"]
        run.stale = state["stale"]
        run.curriculum = CurriculumState.from_json(state["curriculum"])
        run.best, run.snapshot = strip(found.tensors, "best."), strip(found.tensors, "snapshot.")
        run.curves = {name: [(float(a), float(b)) for a, b in curve] for name, curve in state["curves"].items()}
        log.info("resumed after step %d", run.step)
        return found.step


def micro_batches(rows: Sequence[Encoded], size: int) -> list[list[Encoded]]:
    """Parts of at most `size` rows, none of which is more than `STRETCH` times as long as the shortest beside it."""
    parts: list[list[Encoded]] = []
    for row in sorted(rows, key=lambda row: row.ids.size):
        if parts and len(parts[-1]) < size and row.ids.size <= STRETCH * parts[-1][0].ids.size:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def strip(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors under a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear up over the first twentieth, then a cosine down to a tenth."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))


def measure(
    policy: DecoderPolicy, rows: Sequence[Encoded], batch: int, group: Group | None = None
) -> tuple[float, float]:
    """(mean loss, share of right tokens) over the learned tokens of whole conversations, the truth fed in.

    In a group each rank measures its part, and all get the same two numbers.
    """
    loss = right = tokens = 0.0
    with torch.no_grad():
        for part in micro_batches(group.share(rows) if group else rows, batch):
            logits, _, targets = policy.forward_rows(part)
            loss += float(functional.cross_entropy(logits, targets, reduction="sum"))
            right += float((logits.argmax(-1) == targets).sum())
            tokens += float(targets.numel())
    if group:
        loss, right, tokens = group.total(loss, right, tokens)
    return loss / max(tokens, 1.0), right / max(tokens, 1.0)

"""Reinforcement: GRPO over multi-turn episodes in which the policy may look closer at the source's pixels.

Role: asks the training people's questions in groups, rewards, updates the adapter; measures accuracy on the validation
people before and after, greedily and sampled; hands on whichever of the two adapters is better there. "No gain" is an
allowed outcome and is said so (`helped` in the facts and in `rft.json` beside the adapter).

Several processes (group.py) each ask their share of a step's questions; updates, rewards and decisions are those of all
questions and equal on every rank, and rank 0 alone writes checkpoints.

Guarantees: killed at any moment and started again with the same work folder, it goes on from its last checkpoint. With
data that has no close-up questions only operation questions are asked.
Not guaranteed: an unbiased estimate of the chosen policy (the choice is made on the same validation questions that are
reported); evaluation measures it on test people.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.rft import checkpoint
from components.rft.checkpoint import State
from components.rft.config import RftConfig
from components.rft.questions import KINDS, Schedule, clips_by_id, plan, sample_questions
from components.rft.results import describe
from components.rft.update import Learner, update
from components.rft.validation import Validation, helped, validate
from components.shared.learning.episode import Task, task_for
from components.shared.learning.group import Group
from components.shared.learning.rewards.coherence import CoherenceReward
from components.shared.learning.rewards.curiosity import CuriosityReward, Novelty
from components.shared.learning.rewards.format import FormatReward
from components.shared.learning.rewards.orchestrator import Orchestrator, Weight
from components.shared.learning.rewards.task import TaskReward, best_constant_segment
from components.shared.operations import Registry, default_registry
from components.shared.runtime.artifacts import write_json
from components.shared.runtime.launch import in_group, launch, wanted
from components.shared.runtime.memory import device_peak, enough_device_memory
from components.shared.runtime.progress import Progress
from components.shared.runtime.report import Report
from components.shared.samples.clip import Clip
from components.shared.samples.index import read_index
from components.shared.samples.trajectory import Question
from components.shared.samples.trajectory_shards import read_questions

log = logging.getLogger(__name__)
RESULT = "rft.json"


@dataclass(frozen=True)
class RftInputs:
    """What reinforcement reads."""

    trajectories: Path
    """Questions by split."""
    clips: Path
    """Clips with their source frames."""
    base: Path
    """The policy's base."""
    adapter: Path
    """The adapter to start from (SFT's)."""
    encoder: Path
    """The aligned encoders; read only with a novelty reward."""


@dataclass(frozen=True)
class RftOutputs:
    """What reinforcement writes."""

    adapter: Path
    """The better adapter, `rft.json` (figures, `helped`), rollouts.jsonl, a picture."""
    work: Path
    """Checkpoints; survives a kill."""


@enough_device_memory("Lower rft.micro_batch, or set rft.gradient_checkpointing, or rft.quantisation to nf4.")
def reinforce(config: RftConfig, inputs: RftInputs, outputs: RftOutputs) -> Report:
    """Reinforce a policy; see the module's text.

    Raises:
        ArtifactError: no training questions, clips that do not belong to the questions, an adapter of another base.
    """
    count = wanted(config.num_processes, config.device)
    if count > 1 and not in_group():
        return launch("components.rft", config, inputs, outputs, count)
    from components.shared.policy.load import load_policy

    group = Group(config.device)
    train, validation = (read_questions(inputs.trajectories, split) for split in ("train", "validation"))
    schedule = plan(train, num_groups=config.num_groups, closeup_share=config.closeup_share, seed=config.seed)
    policy = load_policy(
        inputs.base, inputs.adapter, device=group.device, dtype=config.dtype, quantisation=config.quantisation
    )
    policy.set_gradient_checkpointing(config.gradient_checkpointing)
    labels = policy.description.labels
    chosen = [q for kind in KINDS for q in sample_questions(validation, kind, config.num_validation, config.seed)]
    asked = group.share(chosen)
    ids = {question.clip_id for question in asked}
    checks = tasks_for(asked, clips_by_id(inputs.clips, "validation", ids) if ids else {}, labels)
    clips = clips_by_id(inputs.clips, "train", schedule.needed(config.steps, group.part)) if config.steps else {}
    novelty = build_novelty(config, inputs.encoder)
    registry, orchestrator = default_registry(config.operations), build_orchestrator(config, train, novelty)
    learner = Learner.start(policy, config, group)
    state = train_policy(
        learner, schedule, clips, checks, registry, orchestrator, config, outputs.work, labels=labels, novelty=novelty
    )
    after = validate(policy, checks, registry, config, group)
    better, reason = helped(state.before, after, max_operation_drop=config.max_operation_drop)
    if not better:
        policy.load_adapter(inputs.adapter)
    policy.save_adapter(outputs.adapter)
    group.close()
    report = finish(config, inputs, outputs, state, after, better, reason, schedule)
    report.metrics |= {"num_processes": float(group.size)} | device_peak(group.device)
    return report


def train_policy(
    learner: Learner,
    schedule: Schedule,
    clips: dict[str, Clip],
    checks: Sequence[Task],
    registry: Registry,
    orchestrator: Orchestrator,
    config: RftConfig,
    work: Path,
    *,
    labels: Sequence[str] = (),
    novelty: Novelty | None = None,
) -> State:
    """All updates, from the last checkpoint in `work` where there is one; the policy is trained in place.

    Each rank of the learner's group has its share of the questions in `clips` and `checks`.
    """
    group = learner.group
    state = checkpoint.restore(work, learner, orchestrator, novelty)
    if state is None:
        state = State(before=validate(learner.policy, checks, registry, config, group))
        checkpoint.save(work, state, learner, orchestrator, novelty)
    bar = Progress(config.steps, "reinforcing", unit="updates")
    bar.advance(state.step)
    while state.step < config.steps and (config.deterministic or state.seconds < config.train_seconds):
        start = time.monotonic()
        tasks = tasks_for(group.share(schedule.step(state.step)), clips, labels)
        done = update(
            learner, tasks, registry, orchestrator, config, step=state.step, progress=state.step / config.steps
        )
        if group.writes:
            checkpoint.append_rollouts(work, done.rollouts)
        state.step += 1
        state.seconds += group.agreed(time.monotonic() - start)
        state.history.append({"step": float(state.step), **done.figures})
        if state.step % config.checkpoint_every == 0:
            checkpoint.save(work, state, learner, orchestrator, novelty)
        note = f"reward {done.figures['reward_task']:.2f}, looks {done.figures['operation_rate']:.2f}"
        bar.advance(note=note)
    checkpoint.save(work, state, learner, orchestrator, novelty)
    return state


def tasks_for(questions: Sequence[Question], clips: dict[str, Clip], labels: Sequence[str]) -> list[Task]:
    """A task a question; frames stay encoded until they are looked at."""
    return [task_for(question, clips[question.clip_id], labels) for question in questions]


def build_orchestrator(config: RftConfig, questions: Sequence[Question], novelty: Novelty | None) -> Orchestrator:
    """The rewards with the section's weights; the constant segment is fitted on the training questions."""
    constants = config.rewards.constants
    rewards = (
        TaskReward(constant=best_constant_segment(q.truth for q in questions if q.kind == "operation")),
        CuriosityReward(
            alpha=constants.alpha,
            beta=constants.beta,
            target_rate=constants.target_rate,
            free_calls=constants.free_calls,
            novelty=novelty,
            novelty_weight=constants.novelty_weight,
        ),
        CoherenceReward(),
        FormatReward(),
    )
    given = {reward.name: getattr(config.rewards, reward.name) for reward in rewards}
    weights = {name: Weight(weight.start, weight.end) for name, weight in given.items()}
    return Orchestrator(rewards, weights, adaptive=config.rewards.adaptive)


def build_novelty(config: RftConfig, encoder: Path) -> Novelty | None:
    """What measures how new crops are, None where novelty is not paid."""
    if not config.rewards.constants.novelty_weight:
        return None
    from components.rft.novelty import crop_embedder

    return Novelty(crop_embedder(encoder), memory=config.rewards.constants.novelty_memory)


def finish(
    config: RftConfig,
    inputs: RftInputs,
    outputs: RftOutputs,
    state: State,
    after: Validation,
    better: bool,
    reason: str,
    schedule: Schedule,
) -> Report:
    """Write what stands beside the adapter, and the report."""
    provenance = read_index(inputs.trajectories).provenance
    report = describe(config, state, after, better, reason, schedule, outputs.adapter)
    report.provenance = provenance
    write_json(
        outputs.adapter / RESULT,
        {"helped": better, "reason": reason, "before": state.before.figures, "after": after.figures, **report.facts},
    )
    log_path = outputs.work / checkpoint.ROLLOUTS
    if log_path.is_file():
        shutil.copyfile(log_path, outputs.adapter / checkpoint.ROLLOUTS)
    log.info("reinforcement %s: %s", "helped" if better else "did not help", reason)
    return report

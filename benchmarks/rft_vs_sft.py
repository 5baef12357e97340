"""Reinforcement against the same time spent on more supervised fine-tuning, on look-closer questions.

Both start from the same SFT adapter and get the same seconds of training on training people (measuring excluded):

    rft   the step's own loop (GRPO on questions, operations executed)
    sft   cross-entropy on the training trajectories of both kinds of question, close-ups in the share in which
          reinforcement asks them and in the mixture of looks that synthesis made

Both are measured on people seen by neither, greedily and sampled at temperature 1, with paired bootstrap intervals. The
supervised arm is measured at several checkpoints, because its greedy accuracy flips where P(look) is near one half.

    python benchmarks/rft_vs_sft.py --trajectories DIR --clips DIR --base DIR --adapter DIR --seconds 100
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from components.rft.config import RftConfig
from components.rft.questions import KINDS, clips_by_id, plan, sample_questions
from components.rft.train import build_orchestrator, tasks_for, train_policy
from components.rft.update import Learner
from components.rft.validation import MODES, Validation, paired_difference, validate
from components.shared.learning.episode import Task
from components.shared.operations import default_registry
from components.shared.policy.decoder import DecoderPolicy
from components.shared.policy.interface import Conversation
from components.shared.policy.load import load_policy
from components.shared.policy.prompts import conversation_of
from components.shared.samples.trajectory_shards import read_questions, read_trajectories

BATCH = 32


def main() -> None:
    """Run both arms and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("trajectories", "clips", "base", "adapter"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=100.0)
    parser.add_argument("--split", default="test", help="questions of which split are asked (validation or test)")
    parser.add_argument("--questions", type=int, default=400, help="questions a kind")
    parser.add_argument("--samples", type=int, default=4, help="sampled answers to each of them")
    parser.add_argument("--checkpoints", type=int, default=4, help="measurements of the supervised arm")
    parser.add_argument("--sft-rates", type=float, nargs="+", default=[2e-4, 1e-3], help="its learning rates")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    config = RftConfig(
        seed=given.seed,
        steps=100_000,
        train_seconds=given.seconds,
        num_validation=given.questions,
        validation_samples=given.samples,
    )
    policy = load_policy(given.base, given.adapter)
    checks = questions_to_ask(given.trajectories, given.clips, given.split, config, policy.description.labels)
    registry = default_registry(config.operations)
    before = validate(policy, checks, registry, config)
    rows: dict[str, Validation] = {"SFT": before}
    updates = reinforce(policy, given.trajectories, given.clips, config)
    rows[f"RFT {given.seconds:.0f} s ({updates} updates)"] = validate(policy, checks, registry, config)
    lessons = lessons_by_kind(given.trajectories)
    for rate in given.sft_rates:
        policy.load_adapter(given.adapter)
        for share, steps in supervise(policy, lessons, config, rate, given.checkpoints):
            name = f"more SFT {share * given.seconds:.0f} s, lr {rate:g} ({steps} steps)"
            rows[name] = validate(policy, checks, registry, config)
    print(table(rows, given.seed))
    if given.out:
        given.out.write_text(json.dumps({name: row.figures for name, row in rows.items()}, indent=2))


def questions_to_ask(
    trajectories: Path, clips: Path, split: str, config: RftConfig, labels: Sequence[str]
) -> list[Task]:
    """Questions of both kinds about people that neither arm trains on."""
    questions = read_questions(trajectories, split)
    asked = [q for kind in KINDS for q in sample_questions(questions, kind, config.num_validation, config.seed)]
    return tasks_for(asked, clips_by_id(clips, split, {q.clip_id for q in asked}), labels)


def reinforce(policy: DecoderPolicy, trajectories: Path, clips: Path, config: RftConfig) -> int:
    """The rft arm; returns the number of updates."""
    train = read_questions(trajectories, "train")
    schedule = plan(train, num_groups=config.num_groups, closeup_share=config.closeup_share, seed=config.seed)
    found = clips_by_id(clips, "train", {question.clip_id for question in train})
    learner = Learner.start(policy, config)
    registry, orchestrator = default_registry(config.operations), build_orchestrator(config, train, None)
    with tempfile.TemporaryDirectory() as work:
        labels = policy.description.labels
        state = train_policy(learner, schedule, found, [], registry, orchestrator, config, Path(work), labels=labels)
    return state.step


def lessons_by_kind(trajectories: Path) -> dict[str, list[Conversation]]:
    """The training trajectories of each kind of question that reinforcement asks."""
    found: dict[str, list[Conversation]] = {kind: [] for kind in KINDS}
    for trajectory, view, tools in read_trajectories(trajectories, "train"):
        if trajectory.question.kind in found:
            found[trajectory.question.kind].append(conversation_of(trajectory, view, tools))
    return found


def supervise(
    policy: DecoderPolicy,
    lessons: dict[str, list[Conversation]],
    config: RftConfig,
    rate: float,
    checkpoints: int,
) -> Iterator[tuple[float, int]]:
    """The supervised arm; yields (share of the time used, steps) at each checkpoint, its time not counted."""
    optimizer = torch.optim.AdamW(policy.trainable_parameters(), lr=rate, weight_decay=0.0)
    rng = np.random.default_rng(config.seed)
    closeups = round(BATCH * config.closeup_share)
    counts = {kind: closeups if kind == "closeup" else BATCH - closeups for kind in KINDS}
    used, steps = 0.0, 0
    for checkpoint in range(1, checkpoints + 1):
        while used < config.train_seconds * checkpoint / checkpoints:
            start = time.monotonic()
            batch = [lessons[kind][i] for kind in KINDS for i in rng.integers(len(lessons[kind]), size=counts[kind])]
            logprobs, mask = policy.token_logprobs(batch)
            loss = -(logprobs * mask).sum() / mask.sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.trainable_parameters(), 1.0)
            optimizer.step()
            used += time.monotonic() - start
            steps += 1
        yield checkpoint / checkpoints, steps


def table(rows: dict[str, Validation], seed: int) -> str:
    """A Markdown table; the difference to the first row with its interval."""
    (_, before), *_ = rows.items()
    kinds = before.kinds()
    head = [f"{kind} {mode}" for kind in kinds for mode in MODES]
    lines = ["| policy | " + " | ".join(head) + " | looked at evidence (greedy, sampled) |"]
    lines.append("|" + "---|" * (len(head) + 2))
    for name, row in rows.items():
        cells = []
        for kind in kinds:
            for mode in MODES:
                key = f"{mode}_{kind}"
                gain, low, high = paired_difference(before.right[key], row.right[key], seed=seed)
                cells.append(f"{row.figures[f'{key}_accuracy']:.3f} ({gain:+.3f}: {low:+.3f} … {high:+.3f})")
        looks = [f"{row.figures.get(f'{mode}_closeup_right_look', float('nan')):.2f}" for mode in MODES]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {', '.join(looks)} |")
    counts = ", ".join(f"{len(before.right[f'greedy_{kind}'])} {kind}" for kind in kinds)
    return "\n".join([*lines, "", f"Questions: {counts}; difference to the first row with its 95 % interval."])


if __name__ == "__main__":
    main()

"""The report of reinforcement: figures, curves, a picture and a few lines for people."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from components.rft.checkpoint import State
from components.rft.config import RftConfig
from components.rft.questions import Schedule
from components.rft.validation import MODES, Validation, paired_difference
from components.shared.runtime.page import in_words
from components.shared.runtime.report import Report

PICTURE = "rft.png"
CURVES = (
    "reward_task", "reward_curiosity", "reward_coherence", "reward_format", "operation_rate", "accuracy_closeup",
    "accuracy_operation", "tokens_a_rollout", "kl", "entropy", "clip_share", "dropped_groups", "loss", "grad_norm",
)  # fmt: skip
NAMES = {"closeup": "close-up", "operation": "operation"}


def describe(
    config: RftConfig,
    state: State,
    after: Validation,
    better: bool,
    reason: str,
    schedule: Schedule,
    folder: Path,
) -> Report:
    """Put the report together; the picture goes into `folder`."""
    metrics = {"updates": float(state.step), "train_seconds": state.seconds, "helped": float(better)}
    metrics |= {f"before_{name}": value for name, value in state.before.figures.items()}
    metrics |= {f"after_{name}": value for name, value in after.figures.items()}
    last = state.history[-5:]
    for name in ("operation_rate", "tokens_a_rollout", "kl", "entropy", "clip_share", "sampler_gap"):
        if last and all(name in item for item in last):
            metrics[name] = float(np.mean([item[name] for item in last]))
    if state.history:
        groups = sum(item["num_groups"] for item in state.history)
        metrics["dropped_group_share"] = sum(item["dropped_groups"] for item in state.history) / groups
        metrics["num_forced"] = sum(item["num_forced"] for item in state.history)
        metrics["seconds_an_update"] = state.seconds / len(state.history)
    gains = {}
    for kind in after.kinds():
        for mode in MODES:
            key = f"{mode}_{kind}"
            mean, low, high = paired_difference(state.before.right[key], after.right[key], seed=config.seed)
            gains[key] = {"gain": mean, "low": low, "high": high, "n": len(after.right[key])}
            metrics[f"gain_{key}"] = mean
    curves = {
        name: [(item["step"], item[name]) for item in state.history if name in item]
        for name in CURVES
        if any(name in item for item in state.history)
    }
    report = Report(metrics=metrics, curves=curves, markdown=_markdown(state, after, gains, better, reason, schedule))
    report.facts = {
        "helped": better,
        "reason": reason,
        "chosen": "rft" if better else "sft",
        "gains": gains,
        "questions_a_step": dict(schedule.shares),
        "num_train_questions": {kind: len(pool) for kind, pool in schedule.pools.items()},
        "ended_by": "steps" if state.step >= config.steps else "time",
    }
    if state.history:
        report.pictures = {"Rewards, rate of looking and accuracy during reinforcement": _picture(state, folder)}
    return report


def _markdown(
    state: State,
    after: Validation,
    gains: dict[str, dict[str, float]],
    better: bool,
    reason: str,
    schedule: Schedule,
) -> str:
    verdict = "The reinforced adapter is handed on" if better else "**No gain**: the SFT adapter is handed on"
    lines = [
        "## Reinforcement (GRPO, group-relative policy optimisation)",
        "",
        f"{verdict}: {reason}. {state.step} updates in {state.seconds:.0f} s; a step asks "
        f"{schedule.shares['closeup']} close-up and {schedule.shares['operation']} operation questions.",
        "",
    ]
    if not gains:
        return "\n".join([*lines, "There were no validation questions, so nothing could be compared.", ""])
    lines += ["| validation accuracy | SFT | RFT | difference (95 %) | questions |", "|---|---|---|---|---|"]
    for key, gain in gains.items():
        mode, kind = key.split("_")
        old, new = (of.figures[f"{key}_accuracy"] for of in (state.before, after))
        span = f"{gain['gain']:+.3f} ({gain['low']:+.3f} … {gain['high']:+.3f})"
        lines.append(f"| {NAMES[kind]}, {mode} | {old:.3f} | {new:.3f} | {span} | {gain['n']:.0f} |")
    if "greedy_closeup_chance" in after.figures:
        looks = ", ".join(
            f"{mode} {state.before.figures[f'{mode}_closeup_right_look']:.2f} -> "
            f"{after.figures[f'{mode}_closeup_right_look']:.2f}"
            for mode in MODES
        )
        lines += ["", f"Looked at the evidence: {looks}. Chance: {after.figures['greedy_closeup_chance']:.2f}."]
    return "\n".join([*lines, ""])


def _picture(state: State, folder: Path) -> Path:
    """Three panels over the updates: rewards, looking and accuracy, KL and entropy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    panels = (
        ("raw rewards", ("reward_task", "reward_curiosity", "reward_coherence", "reward_format")),
        ("rollouts", ("operation_rate", "accuracy_closeup", "accuracy_operation")),
        ("policy", ("kl", "entropy", "clip_share")),
    )
    for axis, (title, names) in zip(figure.subplots(1, 3), panels):
        for name in names:
            points = [(item["step"], item[name]) for item in state.history if name in item]
            if points:
                axis.plot(*zip(*points), label=in_words(name.removeprefix("reward_"), 0)[0])
        axis.set_title(title)
        axis.set_xlabel("update")
        axis.legend(fontsize=7)
    path = folder / PICTURE
    figure.savefig(path, dpi=100)
    return path

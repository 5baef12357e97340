"""The report of the fine-tuning step: figures by name and the text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.sft.curriculum import STAGES
from components.shared.learning.answer_figures import EXPLAINED

if TYPE_CHECKING:
    from components.sft.trainer import Run, Trainer


def figures_of(run: Run, before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """The metrics of training and of the questions asked before and after."""
    metrics = {
        f"{name}_before": value for name, value in before.items() if name in ("oca", "aa", "tiou", "valid_share")
    }
    metrics |= after
    return metrics | {
        "best_validation_loss": run.best_loss,
        "best_step": float(run.best_step),
        "steps": float(run.step),
        "last_stage": float(run.curriculum.stage),
        "final_loss": run.curves["loss"][-1][1] if run.curves.get("loss") else 0.0,
    }


def summary(metrics: dict[str, float], trainer: Trainer, run: Run, *, unseen: bool, ranks: dict[str, int]) -> str:
    """The report's text."""
    counts = ", ".join(f"{number} {stage}" for stage, number in zip(STAGES, trainer.lessons.counts()))
    moves = "; ".join(f"evaluation {at}: {what} to {STAGES[stage]}" for at, what, stage in run.curriculum.moves)
    lines = [
        f"LoRA of rank {trainer.config.rank} ({metrics['num_trained_parameters'] / 1e3:.0f} k parameters), "
        f"{run.step} steps of {trainer.config.batch} trajectories ({counts}) in {metrics['train_seconds']:.0f} s; "
        f"best validation loss {run.best_loss:.3f} after step {run.best_step}.",
        "",
        f"Curriculum: {moves or 'no move'}.",
    ]
    if metrics.get("num_windows"):
        lines += ["", "| on validation people | before | after |", "|---|---|---|"]
        lines += [
            f"| {title} | {metrics[f'{name}_before']:.3f} | {metrics[name]:.3f} |"
            for name, title in (("oca", "OCA"), ("aa", "AA@1"), ("tiou", "tIoU@0.5"), ("valid_share", "valid answers"))
        ]
        lines.append(
            f"\n{metrics['num_windows']:.0f} windows, {metrics['num_boundary_windows']:.0f} with a boundary; the best "
            f"constant segment's tIoU@0.5 is {metrics['tiou_constant']:.3f}. {EXPLAINED}"
        )
    stages = ", ".join(f"{at} {stage}" for at, stage in enumerate(STAGES))
    lines.append(
        f"\nIn the curves: stages are {stages}; validation score is the share of right tokens, the truth fed in."
    )
    if not unseen:
        lines.append(
            "\nThere is no validation trajectory: the checkpoint was chosen on held-out training trajectories."
        )
    if ranks:
        lines += ["", *rank_table(ranks)]
    measured = metrics.get("peak_device_bytes")
    on_device = f", {measured / 2**20:.0f} MiB were taken on the device" if measured else ""
    lines.append(
        f"\nMemory: model and training were estimated at {metrics['estimated_bytes'] / 2**20:.0f} MiB{on_device}. With "
        f"what the process held already, training was to take {metrics['expected_training_rss_bytes'] / 2**20:.0f} MiB "
        f"and took {metrics['training_rss_bytes'] / 2**20:.0f} MiB."
    )
    return "\n".join(lines)


def rank_table(ranks: dict[str, int]) -> list[str]:
    """Markdown: the chosen rank of every layer, a row a decoder layer and a column a projection."""
    found: dict[str, dict[str, int]] = {}
    for name, rank in ranks.items():
        parts = name.split(".")
        layer = next((part for part in parts if part.isdigit()), "-")
        found.setdefault(layer, {})[parts[-1]] = rank
    columns = sorted({column for row in found.values() for column in row})
    lines = ["Ranks chosen from data (EVA):", "", f"| layer | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    ordered = sorted(found.items(), key=lambda item: (len(item[0]), item[0]))
    return lines + [f"| {layer} | " + " | ".join(str(row.get(c, "")) for c in columns) + " |" for layer, row in ordered]

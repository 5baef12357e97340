"""Supervised fine-tuning of a LoRA adapter on trajectories, in curriculum stages.

Guarantees: the loss covers the policy's own tokens only; the adapter written is the one with the best loss on
validation people; a run killed at any point and started again with the same work folder ends with the same weights.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.sft.config import SftConfig
from components.shared.runtime.artifacts import read_json, sha256_bytes, write_json
from components.shared.runtime.config import canonical_json
from components.shared.runtime.memory import PeakMemory
from components.shared.runtime.report import Report
from components.shared.samples.index import read_index

if TYPE_CHECKING:
    from components.sft.trainer import Run, Trainer
    from components.shared.policy.decoder import DecoderPolicy

FIGURES = "figures-before.json"


@dataclass(frozen=True)
class SftInputs:
    """What the step reads."""

    trajectories: Path
    clips: Path
    base: Path


@dataclass(frozen=True)
class SftOutputs:
    """What the step writes."""

    adapter: Path
    work: Path


def fine_tune(config: SftConfig, inputs: SftInputs, outputs: SftOutputs) -> Report:
    """Write the adapter's folder; see the module's docstring.

    Raises:
        InputError: no training trajectory.
        ArtifactError: a base that cannot be loaded.
    """
    from components.sft.material import read_both
    from components.sft.trainer import Trainer
    from components.shared.learning.asking import constant_segment, operation_figures, read_asked
    from components.shared.policy.load import load_policy

    began = time.monotonic()
    with PeakMemory() as memory:
        policy = load_policy(inputs.base, device=config.device, dtype=config.dtype, quantisation=config.quantisation)
        policy.add_adapter(rank=config.rank, alpha=config.alpha, seed=config.seed)
        policy.set_gradient_checkpointing(config.gradient_checkpointing)
        train, validation, unseen = read_both(inputs.trajectories, config.max_trajectories, config.num_validation)
        asked = read_asked(inputs.clips, inputs.trajectories, "validation", config.num_asked) if unseen else []
        policy.warm(image for lesson in (*train.upto(2), *validation) for message in lesson for image in message.images)
        estimate = estimate_bytes(policy, config, train.upto(2)[: config.micro_batch])
        labels, constant = policy.description.labels, constant_segment(inputs.trajectories)
        if (outputs.work / FIGURES).is_file():
            before = read_json(outputs.work / FIGURES)
        else:
            before = operation_figures(policy, asked, labels, constant)
            write_json(outputs.work / FIGURES, before)
        prepared = time.monotonic()
        trainer = Trainer(policy, config, train, validation, outputs.work, checkpoint_key(config, policy, inputs))
        run = trainer.fit()
        trained = time.monotonic()
        after = operation_figures(policy, asked, labels, constant)
        digest = policy.save_adapter(outputs.adapter)
    metrics = figures_of(run, before, after)
    metrics |= {
        "prepare_seconds": round(prepared - began, 1),
        "train_seconds": round(trained - prepared, 1),
        "measure_seconds": round(time.monotonic() - trained, 1),
        "estimated_bytes": float(sum(estimate.values())),
        "peak_rss_bytes": float(memory.peak_bytes),
        "num_trajectories": float(sum(train.counts())),
        "num_trained_parameters": float(sum(parameter.numel() for parameter in trainer.parameters)),
    } | device_peak(config.device)
    return Report(
        metrics=metrics,
        provenance=read_index(inputs.trajectories).provenance,
        curves=run.curves,
        markdown=summary(metrics, trainer, run, unseen=unseen),
        facts={
            "adapter_digest": digest,
            "base_digest": policy.base_digest,
            "memory_estimate_bytes": estimate,
            "curriculum_moves": [list(move) for move in run.curriculum.moves],
            "quantised_modules": list(policy.quantised),
            "resumed_from_step": trainer.resumed_from,
        },
    )


def checkpoint_key(config: SftConfig, policy: DecoderPolicy, inputs: SftInputs) -> str:
    """Names everything that a checkpoint depends on."""
    index = read_index(inputs.trajectories).model_dump(mode="json")
    return sha256_bytes(canonical_json([config.model_dump(mode="json"), index, policy.base_digest]).encode())


def estimate_bytes(policy: DecoderPolicy, config: SftConfig, sample: list) -> dict[str, int]:  # type: ignore[type-arg]
    """The estimate for this model and a micro batch like `sample`."""
    from components.sft.memory import ModelSize, training_bytes

    text = policy.text_config
    modules = dict(policy.model.named_modules())
    quantised = sum(modules[name].in_features * modules[name].out_features for name in policy.quantised)
    adapter = sum(parameter.numel() for parameter in policy.trainable_parameters())
    stored = sum(parameter.numel() for name, parameter in policy.model.named_parameters() if ".lora_" not in name)
    size = ModelSize(
        num_parameters=stored if not quantised else stored + quantised // 2,
        num_quantised=quantised,
        num_adapter=adapter,
        bytes_each=policy.language.norm.weight.element_size(),
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        layers=text.num_hidden_layers,
        vocabulary=text.vocab_size,
    )
    rows = [policy.layout.encode(conversation) for conversation in sample]
    return training_bytes(
        size,
        tokens=len(rows) * max(row.ids.size for row in rows),
        learned=int(sum(row.learn.sum() for row in rows)),
        quantisation=config.quantisation,
        gradient_checkpointing=config.gradient_checkpointing,
    )


def device_peak(device: str) -> dict[str, float]:
    """Peak memory of the accelerator, where there is one."""
    if not device.startswith("cuda"):
        return {}
    import torch

    return {"peak_device_bytes": float(torch.cuda.max_memory_allocated(device))}


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


def summary(metrics: dict[str, float], trainer: Trainer, run: Run, *, unseen: bool) -> str:
    """The report's text."""
    from components.sft.curriculum import STAGES

    counts = ", ".join(f"{number} {stage}" for stage, number in zip(STAGES, trainer.train.counts()))
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
            f"constant segment's tIoU@0.5 is {metrics['tiou_constant']:.3f}."
        )
    if not unseen:
        lines.append(
            "\nThere is no validation trajectory: the checkpoint was chosen on held-out training trajectories."
        )
    lines.append(
        f"\nMemory: {metrics['estimated_bytes'] / 2**20:.0f} MiB estimated for model and training, measured "
        f"{metrics['peak_rss_bytes'] / 2**20:.0f} MiB for the whole process."
    )
    return "\n".join(lines)

"""Supervised fine-tuning of a LoRA adapter on trajectories, in curriculum stages.

Guarantees: the loss covers the policy's own tokens only; the adapter written is the one with the best loss on
validation people; a run killed at any point and started again with the same work folder ends with the same weights.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from components.sft.config import SftConfig
from components.sft.summary import figures_of, summary
from components.shared.runtime.artifacts import read_json, sha256_bytes, write_json
from components.shared.runtime.config import canonical_json
from components.shared.runtime.launch import in_group, launch, wanted
from components.shared.runtime.memory import PeakMemory, device_peak, enough_device_memory, give_back
from components.shared.runtime.report import Report
from components.shared.samples.index import read_index

if TYPE_CHECKING:
    from components.sft.material import Lessons
    from components.shared.learning.asking import Asked
    from components.shared.learning.group import Group
    from components.shared.policy.decoder import DecoderPolicy
    from components.shared.policy.layout import Encoded

log = logging.getLogger(__name__)


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


@enough_device_memory("Lower sft.micro_batch, or set sft.gradient_checkpointing, or sft.quantisation to nf4.")
def fine_tune(config: SftConfig, inputs: SftInputs, outputs: SftOutputs) -> Report:
    """Write the adapter's folder; see the module's docstring.

    Raises:
        InputError: no training trajectory.
        ArtifactError: a base that cannot be loaded.
    """
    count = wanted(config.num_processes, config.device)
    if count > 1 and not in_group():
        return launch("components.sft", config, inputs, outputs, count)
    from components.sft.material import read_both
    from components.sft.memory import estimate, resident_bytes, still_to_come
    from components.sft.trainer import Trainer
    from components.shared.learning.asking import constant_segment, read_asked
    from components.shared.learning.group import Group
    from components.shared.policy.load import load_policy

    began = time.monotonic()
    group = Group(config.device)
    with PeakMemory() as memory:
        policy = load_policy(inputs.base, device=group.device, dtype=config.dtype, quantisation=config.quantisation)
        policy.add_adapter(rank=config.rank, alpha=config.alpha, seed=config.seed)
        train, validation, unseen = read_both(
            inputs.trajectories,
            config.max_trajectories,
            config.num_validation,
            policy.layout.encode,
            memory_bytes=config.memory_mb * 2**20,
        )
        asked = read_asked(inputs.clips, inputs.trajectories, "validation", config.num_asked) if unseen else []
        warm(policy, chain(train.upto(2), validation))
        key = checkpoint_key(config, policy, inputs)
        ranks = data_ranks(policy, config, train, outputs.work, key, group) if config.eva.enabled else {}
        policy.set_gradient_checkpointing(config.gradient_checkpointing)
        part = largest_part(train, config, group)
        parts = estimate(policy, part, gradient_checkpointing=config.gradient_checkpointing)
        log.info("memory: about %.0f MiB for model and training, %s", sum(parts.values()) / 2**20, parts)
        labels, constant = policy.description.labels, constant_segment(inputs.trajectories)
        kept = outputs.work / f"figures-before-{key[:16]}.json"
        before = group.agreed(read_json(kept) if group.writes and kept.is_file() else None)
        if before is None:  # a resumed run does not ask again
            before = measured(policy, asked, labels, constant, group)
            if group.writes:
                write_json(kept, before)
        prepared = time.monotonic()
        trainer = Trainer(policy, config, train, validation, outputs.work, key, group)
        expected_rss = resident_bytes() + (0 if group.device.startswith("cuda") else still_to_come(parts))
        with PeakMemory(0.02, children=False) as training_memory:
            run = trainer.fit()
        trained = time.monotonic()
        after = measured(policy, asked, labels, constant, group)
        digest = policy.save_adapter(outputs.adapter) if group.writes else ""
    group.close()
    metrics = figures_of(run, before, after)
    metrics |= {
        "prepare_seconds": round(prepared - began, 1),
        "train_seconds": round(trained - prepared, 1),
        "measure_seconds": round(time.monotonic() - trained, 1),
        "estimated_bytes": float(sum(parts.values())),
        "expected_training_rss_bytes": float(expected_rss),
        "training_rss_bytes": float(training_memory.peak_bytes),
        "peak_rss_bytes": float(memory.peak_bytes),
        "num_trajectories": float(sum(train.counts())),
        "num_trained_parameters": float(sum(parameter.numel() for parameter in trainer.parameters)),
        "num_processes": float(group.size),
    } | device_peak(group.device)
    return Report(
        metrics=metrics,
        provenance=read_index(inputs.trajectories).provenance,
        curves=run.curves,
        markdown=summary(metrics, trainer, run, unseen=unseen, ranks=ranks),
        facts={
            "adapter_digest": digest,
            "base_digest": policy.base_digest,
            "memory_estimate_bytes": parts,
            "curriculum_moves": [list(move) for move in run.curriculum.moves],
            "quantised_modules": list(policy.quantised),
            "ranks": ranks,
            "resumed_from_step": trainer.resumed_from,
        },
    )


def batched(items: Iterable[Encoded], size: int) -> Iterator[list[Encoded]]:
    """Consecutive items, `size` at a time."""
    waiting = iter(items)
    while part := list(islice(waiting, size)):
        yield part


def warm(policy: DecoderPolicy, rows: Iterable[Encoded]) -> None:
    """Features of all pictures in a fixed order, for a resume bit for bit; as many as the policy's cache holds.

    A picture's features may differ in the last bit from those that it gets in another batch. With more pictures than
    the cache holds, features are computed when a step needs them, and a resumed run may differ from an uninterrupted
    one in last bits.
    """
    for number, part in enumerate(batched(rows, 64)):
        if number % 8 == 7:  # the pictures stay, what they were read and encoded from does not
            give_back()
        policy.features.encode(
            [image for row in part for image in row.images], keys=[key for row in part for key in row.image_keys]
        )
        if policy.features.size_bytes > 0.9 * policy.features.max_bytes:
            log.warning("the pictures' features exceed the cache: they are computed step by step, not once")
            policy.features.clear()
            return


def largest_part(train: Lessons, config: SftConfig, group: Group) -> list[Encoded]:
    """The micro batch with most tokens, padding included, among those of this rank's first draws over all stages."""
    from components.sft.material import batch_of
    from components.sft.trainer import micro_batches

    pool = train.upto(2)
    batches = (batch_of(pool, config.seed, step, config.batch)[group.part] for step in range(8))
    parts = [part for batch in batches for part in micro_batches(batch, config.micro_batch)]
    return max(parts, default=[pool[0]], key=lambda part: len(part) * max(row.ids.size for row in part))


def data_ranks(
    policy: DecoderPolicy, config: SftConfig, train: Lessons, work: Path, key: str, group: Group
) -> dict[str, int]:
    """Ranks and first weights from the training conversations (EVA), computed once by rank 0 and kept for a resume."""
    from safetensors.torch import load_file, save_file

    from components.sft.material import batch_of
    from components.shared.policy.eva import apply_components, data_components

    path = work / f"eva-{key[:16]}.safetensors"
    components = load_file(path) if group.writes and path.is_file() else None
    if group.writes and components is None:
        pool, settings = train.upto(2), config.eva
        batches = [batch_of(pool, config.seed, step, config.micro_batch) for step in range(settings.batches)]
        components = data_components(
            policy, batches, rho=settings.rho, tau=settings.tau, learned_only=settings.learned_tokens_only
        )
        partial = path.with_suffix(".partial")
        save_file(components, partial)
        partial.replace(path)
    return apply_components(policy, group.agreed(components or {}))


def measured(
    policy: DecoderPolicy, asked: list[Asked], labels: Sequence[str], constant: tuple[float, float] | None, group: Group
) -> dict[str, float]:
    """Answers to the questions, each rank asking its part, and their figures."""
    from components.shared.learning.answer_figures import answer_figures
    from components.shared.learning.asking import ask

    answers = group.gather(ask(policy, group.share(asked), labels)[0])
    return answer_figures([item.question.truth for item in asked], answers, [item.boundary for item in asked], constant)


def checkpoint_key(config: SftConfig, policy: DecoderPolicy, inputs: SftInputs) -> str:
    """Names everything that a checkpoint depends on."""
    index = read_index(inputs.trajectories).model_dump(mode="json")
    return sha256_bytes(canonical_json([config.model_dump(mode="json"), index, policy.base_digest]).encode())

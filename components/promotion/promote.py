"""Puts the promoted model together: one folder that holds all the service needs, its model card and its lineage.

    base/        hub-layout folder of the base model with policy.json
    adapter/     the candidate's LoRA adapter (absent where the base itself was promoted)
    encoder/     the aligned encoders
    canary/      labelled clips kept from training (shards, index) and their questions
    promotion.json, MODEL_CARD.md

Guarantee: everything in the folder is copied and digested; nothing points outside it.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.promotion.card import model_card
from components.promotion.config import PromotionConfig
from components.shared.runtime.artifacts import RECORD, atomic_write, read_json, tree_digest, write_json
from components.shared.runtime.errors import ArtifactError
from components.shared.runtime.records import read_artifact_record
from components.shared.runtime.report import Report
from components.shared.runtime.tracking import registered_name
from components.shared.samples import (
    ShardIndex,
    ShardWriter,
    read_clips,
    read_index,
    read_questions,
    write_clip,
    write_index,
    write_questions,
)
from components.shared.work.manifest import load_manifest

log = logging.getLogger(__name__)
CANARY = "canary"


@dataclass(frozen=True)
class PromotionInputs:
    """What the promoted model is put together from."""

    clips: Path
    trajectories: Path
    recordings: Path
    base: Path
    sft: Path
    rft: Path
    encoder: Path
    evaluation: Path


@dataclass(frozen=True)
class PromotionOutputs:
    """The model folder."""

    model: Path


def promote(config: PromotionConfig, inputs: PromotionInputs, outputs: PromotionOutputs) -> Report:
    """Put the promoted model's folder together.

    Raises:
        ArtifactError: the gate's decision is not `promote`, or an input is not what its record says.
    """
    gate = read_json(inputs.evaluation / "gate.json")
    if gate["decision"] != "promote":
        raise ArtifactError(
            f"the gate decided {gate['decision']!r}, so nothing may be promoted.",
            remedy="Read the reasons in the evaluation report.",
        )
    manifest = load_manifest(inputs.recordings)
    candidate = gate["candidate"]
    model = outputs.model
    copy_artifact(inputs.base, model / "base")
    if candidate != "base":
        copy_artifact(inputs.sft if candidate == "sft" else inputs.rft, model / "adapter")
    copy_artifact(inputs.encoder, model / "encoder")
    num_canary = copy_canary(config, inputs, model / CANARY)
    metrics = read_json(inputs.evaluation / "metrics.json")
    facts: dict[str, Any] = {
        "name": registered_name(config.model_name, manifest.provenance),
        "alias": config.alias,
        "candidate": candidate,
        "provenance": manifest.provenance,
        "labels": list(manifest.labels),
        "null_label": manifest.null_label,
        "transitions": manifest.transitions,
        "base_digest": tree_digest(model / "base"),
        "adapter_digest": tree_digest(model / "adapter") if candidate != "base" else "",
        "encoder_digest": tree_digest(model / "encoder"),
        "num_canary_clips": num_canary,
        "gate": gate,
        "lineage": lineage(inputs),
    }
    write_json(model / "promotion.json", facts | {"evaluation": metrics})
    card = model_card(facts, read_json(inputs.evaluation / "metrics.json"), manifest)
    atomic_write(model / "MODEL_CARD.md", card)
    size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    return Report(
        metrics={"num_canary_clips": num_canary, "model_size_bytes": size},
        provenance=manifest.provenance,
        markdown=card,
        facts={key: facts[key] for key in ("name", "alias", "candidate", "base_digest", "adapter_digest")},
    )


def copy_artifact(source: Path, target: Path) -> None:
    """Copy an artifact without its record, checked against that record."""
    read_artifact_record(source)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(RECORD))


def copy_canary(config: PromotionConfig, inputs: PromotionInputs, target: Path) -> int:
    """Write the canary clips, evenly over the classes up to the cap, and their questions; returns how many clips."""
    target.mkdir()
    source = read_index(inputs.clips)
    labels = (
        Counter(clip.meta.operation for clip in read_clips(inputs.clips, CANARY)) if source.count(CANARY) else Counter()
    )
    quota = -(-config.max_canary_clips // max(1, len(labels)))
    kept: set[str] = set()
    taken: Counter[str] = Counter()
    with ShardWriter(target, CANARY) as writer:
        for clip in read_clips(inputs.clips, CANARY) if labels else ():
            if clip.meta.ambiguous or taken[clip.meta.operation] >= quota or len(kept) >= config.max_canary_clips:
                continue
            taken[clip.meta.operation] += 1
            kept.add(clip.meta.clip_id)
            write_clip(writer, clip)
        shards = writer.close()
    questions = [question for question in read_questions(inputs.trajectories, CANARY) if question.clip_id in kept]
    files = {f"questions-{CANARY}.jsonl": write_questions(target, CANARY, questions)}
    index = ShardIndex(
        kind="clips", provenance=source.provenance, shards={CANARY: shards}, files=files, facts=source.facts
    )
    write_index(target, index)
    log.info("canary set: %d clips, %d questions, by class %s", len(kept), len(questions), dict(taken))
    return len(kept)


def lineage(inputs: PromotionInputs) -> dict[str, dict[str, str]]:
    """Every input's digest, run and step: which recordings made this model."""
    found = {}
    for name in ("recordings", "clips", "trajectories", "base", "sft", "rft", "encoder", "evaluation"):
        item, _ = read_artifact_record(getattr(inputs, name))
        found[name] = {"sha256": item.sha256, "run_id": item.run_id, "step": item.step, "provenance": item.provenance}
    return found

"""The verb `align`: contrastive pretraining of vision, text and (where configured) sound into one space.

Guarantees: the same section, clips and machine give the same weights; a run killed and resumed gives the weights of one
never interrupted (CPU). Not guaranteed: quality; it is measured on people never seen and reported against chance.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from components.alignment.config import AlignmentConfig
from components.alignment.corpus import phrase, read_corpus
from components.shared.runtime.artifacts import sha256_file
from components.shared.runtime.errors import InputError
from components.shared.runtime.launch import in_group, launch, wanted
from components.shared.runtime.report import Report
from components.shared.runtime.reproducibility import seed_everything
from components.shared.samples.index import INDEX
from components.shared.work.manifest import load_manifest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AlignmentInputs:
    """What `align` reads."""

    clips: Path
    recordings: Path


@dataclass(frozen=True)
class AlignmentOutputs:
    """What `align` writes: the encoder, and `work`, which survives a kill."""

    encoder: Path
    work: Path


def align(config: AlignmentConfig, inputs: AlignmentInputs, outputs: AlignmentOutputs) -> Report:
    """Train, save and measure the alignment encoder.

    Raises:
        InputError: fewer than two usable training clips.
    """
    count = wanted(config.num_processes, config.device)
    if count > 1 and not in_group():
        return launch("components.alignment", config, inputs, outputs, count)
    from components.alignment.summary import measured
    from components.alignment.trainer import Trainer
    from components.shared.encoders.model import build_model
    from components.shared.learning.group import Group

    started = time.monotonic()
    group = Group(config.device)
    manifest = load_manifest(inputs.recordings)
    train = read_corpus(
        inputs.clips, "train", manifest, style=config.captions, audio=config.encoder.audio, max_clips=config.max_clips
    )
    if len(train) < 2:
        raise InputError(
            f"the training split has {len(train)} usable clips, so there is nothing to contrast.",
            remedy="Give more recordings, or move people to the training split.",
        )
    log.info("%d training clips, %d distinct captions", len(train), len(set(train.captions)))
    seed_everything(config.seed, deterministic=config.deterministic)
    phrases = [phrase(manifest, label) for label in manifest.labels]
    model = build_model(config.encoder, [*train.captions, *phrases]).to(group.device)
    key = f"{config.digest()}-{sha256_file(inputs.clips / INDEX)}"
    curve = Trainer(config, model, train, phrases, outputs.work, key, group).run()
    group.close()
    if not group.writes:
        return Report(provenance=manifest.provenance)
    model.eval().save(outputs.encoder)
    about = {
        "seconds": time.monotonic() - started,
        "num_train_clips": float(len(train)),
        "num_processes": float(group.size),
    }
    return measured(config, model, inputs.clips, outputs.encoder, manifest, curve, about)

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
from components.alignment.corpus import Corpus, phrase, read_corpus
from components.shared.runtime.artifacts import sha256_bytes, sha256_file
from components.shared.runtime.config import canonical_json
from components.shared.runtime.errors import ConfigError, InputError
from components.shared.runtime.launch import in_group, launch, wanted
from components.shared.runtime.report import Report
from components.shared.runtime.reproducibility import seed_everything
from components.shared.samples.index import INDEX
from components.shared.work.manifest import Manifest, load_manifest

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
        InputError: fewer than two usable training clips, fewer than processes, or no frame under a scored label.
        ConfigError: a step would have fewer items than there are processes.
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
    refuse_too_little(config, train, group.size)
    log.info("%d training clips, %d distinct captions", len(train), len(set(train.captions)))
    seed_everything(config.seed, deterministic=config.deterministic)
    phrases = [phrase(manifest, label) for label in manifest.labels]
    model = build_model(config.encoder, [*train.captions, *phrases]).to(group.device)
    key = checkpoint_key(config, inputs.clips, manifest, train)
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


def refuse_too_little(config: AlignmentConfig, train: Corpus, num_processes: int) -> None:
    """Refuse what a step could not draw its items from, before anything is trained."""
    if len(train) < max(2, num_processes):
        raise InputError(
            f"the training split has {len(train)} usable clips for {num_processes} processes, so there is nothing to"
            " contrast.",
            remedy="Give more recordings, or move people to the training split.",
        )
    tunes_frames = config.frame_steps > 0 and not config.encoder.vision_tower.frozen
    if tunes_frames and not (train.labels >= 0).any():
        raise InputError(
            f"none of the chosen frames of {len(train)} training clips is under a scored label, so the image tower has"
            " nothing to learn from.",
            remedy="Check the annotation's times against the videos, or set alignment.frame_steps to 0.",
        )
    items = {name: getattr(config, name) for name in ("frames_per_step", "clips_per_step", "sounds_per_step")}
    for name, count in items.items():
        if count < num_processes:
            raise ConfigError(
                f"alignment.{name} is {count}, so {num_processes - count} of {num_processes} processes have nothing"
                " to do in a step.",
                remedy="Raise it, or lower alignment.num_processes.",
            )


def checkpoint_key(config: AlignmentConfig, clips: Path, manifest: Manifest, train: Corpus) -> str:
    """Names what a checkpoint depends on: the section, the clips, and what they and their frames are called."""
    called = [list(manifest.labels), [phrase(manifest, label) for label in manifest.labels], train.captions]
    return sha256_bytes(canonical_json([config.model_dump(mode="json"), sha256_file(clips / INDEX), called]).encode())

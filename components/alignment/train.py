"""The verb `align`: contrastive pretraining of vision, text and (where configured) sound into one space.

Two stages. Frames: the image tower learns on single frames and the phrases of the operations under way (the fastest
learner; long captions that differ in one word made the space collapse). Clips: the tower stands still, its features
are computed once, and pooling, projectors, text and sound learn on whole clips, frames mixed in so that phrases keep
meaning frames. Guarantees: the same section, clips and machine give the same weights; a run killed and resumed gives
the weights of one never interrupted (CPU). Not guaranteed: quality; it is measured on people never seen and reported
against chance.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from components.alignment.checkpoint import load_checkpoint, save_checkpoint
from components.alignment.config import AlignmentConfig
from components.alignment.corpus import Corpus, number, phrase, read_corpus
from components.alignment.measure import frame_features
from components.alignment.summary import measured
from components.shared.encoders.audio import decode_audio
from components.shared.encoders.losses import MAX_LOG_SCALE, contrastive_loss
from components.shared.encoders.matryoshka import Encoded
from components.shared.encoders.model import AlignmentModel, build_model
from components.shared.encoders.vision import to_pixels
from components.shared.runtime.artifacts import sha256_file
from components.shared.runtime.errors import InputError
from components.shared.runtime.progress import Progress
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
    started = time.monotonic()
    manifest = load_manifest(inputs.recordings)
    read = {"style": config.captions, "audio": config.encoder.audio}
    train = read_corpus(inputs.clips, "train", manifest, max_clips=config.max_clips, **read)  # type: ignore[arg-type]
    if len(train) < 2:
        raise InputError(
            f"the training split has {len(train)} usable clips, so there is nothing to contrast.",
            remedy="Give more recordings, or move people to the training split.",
        )
    log.info("%d training clips, %d distinct captions", len(train), len(set(train.captions)))
    seed_everything(config.seed, deterministic=config.deterministic)
    phrases = [phrase(manifest, label) for label in manifest.labels]
    model = build_model(config.encoder, [*train.captions, *phrases]).to(config.device)
    key = f"{config.digest()}-{sha256_file(inputs.clips / INDEX)}"
    curve = Trainer(config, model, train, phrases, outputs.work, key).run()
    model.eval().save(outputs.encoder)
    seconds = time.monotonic() - started
    about = {"seconds": seconds, "num_train_clips": float(len(train))}
    return measured(config, model, inputs.clips, outputs.encoder, manifest, curve, about)


class Trainer:
    """The two stages as one sequence of steps, so that a checkpoint is one number."""

    def __init__(
        self, config: AlignmentConfig, model: AlignmentModel, train: Corpus, phrases: list[str], work: Path, key: str
    ) -> None:
        self.config, self.model, self.train, self.phrases, self.work, self.key = (
            config,
            model,
            train,
            phrases,
            work,
            key,
        )
        self.frame_steps = 0 if config.encoder.vision_tower.frozen else config.frame_steps
        self.total = self.frame_steps + config.clip_steps
        self.optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        self.captions, self.caption_of = number(train.captions)
        self.labelled = np.argwhere(train.labels >= 0)
        self.features: torch.Tensor | None = None

    def run(self) -> list[tuple[float, float]]:
        """Train to the end, from the last checkpoint where there is one; the loss by step."""
        done = load_checkpoint(self.work, self.model, self.optimizer, self.key)
        curve: list[tuple[float, float]] = []
        bar = Progress(self.total, "aligning", unit="steps")
        bar.advance(done)
        self.model.train()
        for step in range(done, self.total):
            loss = self.step(step)
            curve.append((float(step), loss))
            bar.advance(note=f"loss {loss:.3f}")
            if (step + 1) % self.config.checkpoint_steps == 0 and step + 1 < self.total:
                save_checkpoint(self.work, self.model, self.optimizer, step + 1, self.key)
        return curve

    def step(self, step: int) -> float:
        """One optimiser step; everything random in it depends on (seed, step) only."""
        rng = np.random.default_rng([self.config.seed, step])
        torch.manual_seed(int(rng.integers(2**31)))
        in_frames = step < self.frame_steps
        place, length = (step, self.frame_steps) if in_frames else (step - self.frame_steps, self.config.clip_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * schedule(place, length)
        loss = self.frame_loss(rng) if in_frames else self.clip_loss(rng)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.log_scale.clamp_(max=MAX_LOG_SCALE)
        return float(loss.detach())

    def frame_loss(self, rng: np.random.Generator) -> torch.Tensor:
        """Single frames against the phrases of their labels, tower included."""
        rows = self.labelled[rng.integers(len(self.labelled), size=self.config.frames_per_step)]
        pixels = to_pixels(self.train.frames[rows[:, 0], rows[:, 1]], self.model.vision.image_size)
        return self.frames_against_phrases(self.model.vision.frame_features(pixels), rows)

    def clip_loss(self, rng: np.random.Generator) -> torch.Tensor:
        """Whole clips (and sound) against captions, and frames against phrases, over cached tower features."""
        if self.features is None:
            self.model.vision.tower.requires_grad_(False)
            self.model.eval()
            self.features = frame_features(self.model, self.train.frames).clone()
            self.model.train()
        rows = rng.permutation(len(self.train))[: self.config.clips_per_step]
        at = torch.from_numpy(rows)
        encoded = {
            "vision": self.model.vision.clip(
                self.features[at], torch.from_numpy(self.train.times_s[rows]), torch.from_numpy(self.train.mask[rows])
            ),
            "text": self.texts(self.captions, self.caption_of[rows]),
        }
        present: dict[str, torch.Tensor] = {}
        if self.model.audio is not None and any(self.train.sounds[row] for row in rows):
            sounds = [self.train.sounds[row] for row in rows]
            mel, real = self.model.audio.mel([decode_audio(x) if x else np.zeros(1, np.float32) for x in sounds])
            encoded["audio"] = self.model.audio(mel, real)
            present["audio"] = torch.tensor([x is not None for x in sounds], device=self.model.vision.device)
        loss = self.loss(encoded, self.caption_of[rows], present)
        if len(self.labelled):
            frames = self.labelled[rng.integers(len(self.labelled), size=self.config.frames_per_step)]
            features = self.features[frames[:, 0], frames[:, 1]]
            loss = loss + self.frames_against_phrases(features, frames)
        return loss

    def frames_against_phrases(self, features: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        labels = self.train.labels[rows[:, 0], rows[:, 1]]
        encoded = {"vision": self.model.vision.frames(features), "text": self.texts(self.phrases, labels)}
        return self.loss(encoded, labels, {})

    def texts(self, texts: list[str], wanted: np.ndarray) -> Encoded:
        """Embeddings of `texts[wanted]`, each distinct text encoded once."""
        distinct, place = np.unique(wanted, return_inverse=True)
        encoded = self.model.text([texts[i] for i in distinct])
        at = torch.from_numpy(place).to(encoded.pooled.device)
        return Encoded(encoded.pooled[at], encoded.sequence[at], {w: rows[at] for w, rows in encoded.mrl.items()})

    def loss(self, encoded: dict[str, Encoded], groups: np.ndarray, present: dict[str, torch.Tensor]) -> torch.Tensor:
        return contrastive_loss(
            {name: item.mrl for name, item in encoded.items()},
            self.model.log_scale,
            groups=torch.from_numpy(groups).to(self.model.vision.device),
            present=present or None,
            w_clip=self.config.w_clip,
            w_mrl=self.config.w_mrl,
        )


def schedule(step: int, total: int) -> float:
    """Share of the peak learning rate: linear over the first tenth, then cosine to zero."""
    warm = max(1, total // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

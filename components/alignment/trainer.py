"""The training loop of the alignment: two stages as one sequence of steps, on one process or several.

Frames: the image tower learns on single frames and the phrases of the operations under way (the fastest learner; long
captions that differ in one word made the space collapse). Clips: the tower stands still, its features are computed
once, and pooling, projectors, text and sound learn on whole clips, frames mixed in so that phrases keep meaning frames.

In a group (shared/learning/group.py) each rank encodes its part of a step's items, embeddings are gathered with their
gradient, every rank computes the loss of the whole batch, and averaged gradients are those of one process.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import torch

from components.alignment.config import AlignmentConfig
from components.alignment.corpus import Corpus, number
from components.alignment.features import frame_features, log_mels
from components.shared.encoders.losses import MAX_LOG_SCALE, contrastive_loss, gather_rows
from components.shared.encoders.matryoshka import Encoded
from components.shared.encoders.model import AlignmentModel
from components.shared.encoders.vision import to_pixels
from components.shared.learning import checkpoint
from components.shared.learning.group import Group
from components.shared.runtime.live import LiveCurves
from components.shared.runtime.progress import Progress

log = logging.getLogger(__name__)
Curve = list[tuple[float, float]]


class Trainer:
    """Trains an alignment model.

    Args:
        config: The section.
        model: Fresh, on its device.
        train: Training clips.
        phrases: What the manifest's labels are called, in its order.
        work: Folder that survives a kill.
        key: Names configuration and data of a checkpoint.
        group: The processes that train together.
    """

    def __init__(
        self,
        config: AlignmentConfig,
        model: AlignmentModel,
        train: Corpus,
        phrases: list[str],
        work: Path,
        key: str,
        group: Group | None = None,
    ) -> None:
        self.config, self.model, self.train, self.phrases = config, model, train, phrases
        self.folder, self.key, self.group = work / "checkpoints", key, group or Group(config.device)
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
        self.mels: tuple[torch.Tensor, torch.Tensor] | None = None
        self.heard = np.array([sound is not None for sound in train.sounds], dtype=bool)
        self.curve: Curve = []

    def run(self) -> Curve:
        """Train to the end, from the last checkpoint where there is one; the loss by step."""
        done = self.restore()
        bar = Progress(self.total, "aligning", unit="steps")
        bar.advance(done)
        self.model.train()
        with LiveCurves(enabled=self.group.writes) as live:
            for step in range(done, self.total):
                loss = self.step(step)
                self.curve.append((float(step), loss))
                live.note(step, loss=loss)
                bar.advance(note=f"loss {loss:.3f}")
                if (step + 1) % self.config.checkpoint_steps == 0 and step + 1 < self.total:
                    self.save(step + 1)
        return self.curve

    def step(self, step: int) -> float:
        """One optimiser step; everything random in it depends on (seed, step) only."""
        rng = np.random.default_rng([self.config.seed, step])
        torch.manual_seed(int(rng.integers(2**31)))
        in_frames = step < self.frame_steps
        place, length = (step, self.frame_steps) if in_frames else (step - self.frame_steps, self.config.clip_steps)
        for options in self.optimizer.param_groups:
            options["lr"] = self.config.learning_rate * schedule(place, length)
        loss = self.frame_loss(rng) if in_frames else self.clip_loss(rng)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        used = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        self.group.sum_gradients(used)
        for parameter in used:
            if parameter.grad is not None:
                parameter.grad.div_(self.group.size)
        torch.nn.utils.clip_grad_norm_(used, 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.log_scale.clamp_(max=MAX_LOG_SCALE)
        return float(loss.detach())

    # -- losses ------------------------------------------------------------------------------------------------------

    def part(self, rows: np.ndarray) -> np.ndarray:
        """This rank's items of a step's: equally many on every rank, as gathering needs."""
        return rows[: len(rows) // self.group.size * self.group.size][self.group.rank :: self.group.size]

    def frame_loss(self, rng: np.random.Generator) -> torch.Tensor:
        """Single frames against the phrases of their labels, tower included."""
        rows = self.part(self.labelled[rng.integers(len(self.labelled), size=self.config.frames_per_step)])
        pixels = to_pixels(self.train.frames[rows[:, 0], rows[:, 1]], self.model.vision.image_size)
        return self.frames_against_phrases(self.model.vision.frame_features(pixels), rows)

    def clip_loss(self, rng: np.random.Generator) -> torch.Tensor:
        """Whole clips (and sound) against captions, and frames against phrases, over cached tower features."""
        features = self.tower_features()
        rows = self.part(rng.permutation(len(self.train))[: self.config.clips_per_step])
        at = torch.from_numpy(rows)
        encoded = {
            "vision": self.model.vision.clip(
                features[at], torch.from_numpy(self.train.times_s[rows]), torch.from_numpy(self.train.mask[rows])
            ),
            "text": self.texts(self.captions, self.caption_of[rows]),
        }
        present: dict[str, torch.Tensor] = {}
        if self.model.audio is not None and self.heard.any():
            mel, real = self.log_mels()
            some = at[: max(1, self.config.sounds_per_step // self.group.size)]
            heard = self.model.audio(mel[some].float(), real[some])
            encoded["audio"] = padded(heard, len(at))
            known = self.heard[rows] & (np.arange(len(rows)) < len(some))
            present["audio"] = torch.from_numpy(known).to(self.model.vision.device)
        loss = self.loss(encoded, self.caption_of[rows], present)
        if self.model.fusion is not None:  # against the text only: it holds the others, so they would be easy matches
            fused = self.model.fusion(encoded, present)
            loss = loss + self.loss({"fused": fused, "text": encoded["text"]}, self.caption_of[rows], {})
        if len(self.labelled):
            frames = self.part(self.labelled[rng.integers(len(self.labelled), size=self.config.frames_per_step)])
            loss = loss + self.frames_against_phrases(features[frames[:, 0], frames[:, 1]], frames)
        return loss

    def tower_features(self) -> torch.Tensor:
        """The image tower's features of all training frames; the tower stands still from here on."""
        if self.features is None:
            self.model.vision.tower.requires_grad_(False)
            self.model.eval()
            self.features = frame_features(self.model, self.train.frames).clone()
            self.model.train()
        return self.features

    def log_mels(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-mel of all training clips (N, bins, frames) in half precision, and which positions are sound."""
        if self.mels is None:
            assert self.model.audio is not None
            self.mels = log_mels(self.model, self.train.sounds)
        return self.mels

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
        """The loss over the rows of all ranks."""
        device = self.model.vision.device
        return contrastive_loss(
            {name: {w: gather_rows(rows) for w, rows in item.mrl.items()} for name, item in encoded.items()},
            self.model.log_scale,
            groups=gather_rows(torch.from_numpy(groups).to(device)),
            present={name: gather_rows(rows) for name, rows in present.items()} or None,
            w_clip=self.config.w_clip,
            w_mrl=self.config.w_mrl,
        )

    # -- state -------------------------------------------------------------------------------------------------------

    def save(self, step: int) -> None:
        """Write a checkpoint; rank 0's is everybody's."""
        if self.group.writes:
            tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
            tensors |= checkpoint.optimizer_tensors(self.optimizer)
            checkpoint.save(self.folder, self.key, step, tensors, {"curve": self.curve})

    def restore(self) -> int:
        """Go on from the newest good checkpoint that rank 0 finds; returns its step, 0 where there is none."""
        found = self.group.agreed(checkpoint.newest(self.folder, self.key) if self.group.writes else None)
        if found is None:
            return 0
        prefix = "model."
        weights = {name.removeprefix(prefix): x for name, x in found.tensors.items() if name.startswith(prefix)}
        self.model.load_state_dict(weights)
        checkpoint.restore_optimizer(self.optimizer, found.tensors)
        self.curve = [(float(at), float(value)) for at, value in found.state["curve"]]
        log.info("resumed after step %d", found.step)
        return found.step


def padded(encoded: Encoded, count: int) -> Encoded:
    """The embeddings with empty rows up to `count`; the loss leaves those out."""
    grown = lambda rows: torch.nn.functional.pad(rows, (0, 0, 0, count - len(rows)))
    return Encoded(grown(encoded.pooled), encoded.sequence, {w: grown(rows) for w, rows in encoded.mrl.items()})


def schedule(step: int, total: int) -> float:
    """Share of the peak learning rate: linear over the first tenth, then cosine to zero."""
    warm = max(1, total // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

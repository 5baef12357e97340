"""The training loop of the alignment: two stages as one sequence of steps, on one process or several.

Moments: the image tower learns on single frames, the sound tower on moments of sound, both against the phrases of the
operations under way (the fastest learner; long captions that differ in one word made the space collapse). Clips: the
towers stand still, their features are computed once, and pooling, projectors and text learn on whole clips, moments
mixed in so that phrases keep meaning them.

Alone on a CPU, what a step's losses do not share runs side by side (shared/learning/parts.py): moments beside clips,
and modalities beside each other, forward as far as their embeddings and back from these embeddings' gradients.

In a group (shared/learning/group.py) each rank encodes its part of a step's items, embeddings are gathered with their
gradient, every rank computes the loss of the whole batch, and averaged gradients are those of one process.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from components.alignment.config import AlignmentConfig
from components.alignment.corpus import Corpus, number
from components.alignment.features import frame_features, log_mels, sound_features
from components.shared.encoders.losses import MAX_LOG_SCALE, class_loss, contrastive_loss, gather_rows
from components.shared.encoders.matryoshka import Encoded
from components.shared.encoders.model import AlignmentModel
from components.shared.encoders.vision import to_pixels
from components.shared.learning import checkpoint
from components.shared.learning.group import Group
from components.shared.learning.parts import Part, Parts
from components.shared.learning.precision import products_in
from components.shared.runtime.live import LiveCurves
from components.shared.runtime.progress import Progress

log = logging.getLogger(__name__)
T = TypeVar("T")
SOUND_PARTS = 2
"""A step's sounds in parts: their tower costs more than a step's frames."""
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
        hearing = [] if model.audio is None else [p for p in model.audio.parameters() if p.requires_grad]
        known = {id(parameter) for parameter in hearing}
        others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        self.peaks = (config.learning_rate, config.sound_learning_rate)
        self.optimizer = torch.optim.AdamW(
            [{"params": others}, {"params": hearing}],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        alone = self.group.size == 1 and torch.device(self.group.device).type == "cpu"
        self.parts = Parts([*others, *hearing], threads=0 if alone else 1)
        self.captions, self.caption_of = number(train.captions)
        self.labelled = np.argwhere(train.labels >= 0)
        self.features: torch.Tensor | None = None
        self.mels: tuple[torch.Tensor, torch.Tensor] | None = None
        self.sounds: tuple[torch.Tensor, torch.Tensor] | None = None
        self.heard = np.array([sound is not None for sound in train.sounds], dtype=bool)
        self.curve: Curve = []

    def run(self) -> Curve:
        """Train to the end, from the last checkpoint where there is one; the loss by step."""
        done = self.restore()
        bar = Progress(self.total, "aligning", unit="steps")
        bar.advance(done)
        self.model.train()
        with self.parts, LiveCurves(enabled=self.group.writes) as live:
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
        for options, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            options["lr"] = peak * schedule(place, length)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.moments_step(rng) if in_frames else self.clips_step(rng)
        used = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        self.group.sum_gradients(used)
        for parameter in used:
            if parameter.grad is not None:
                parameter.grad.div_(self.group.size)
        torch.nn.utils.clip_grad_norm_(used, 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.log_scale.clamp_(max=MAX_LOG_SCALE)
        return loss

    # -- gradients ---------------------------------------------------------------------------------------------------

    def moments_step(self, rng: np.random.Generator) -> float:
        """Add the gradient of single frames and moments of sound, towers included; returns the loss."""
        rows = self.some_moments(rng)
        pixels = to_pixels(self.train.frames[rows[:, 0], rows[:, 1]], self.model.vision.image_size)
        work = [self.part(lambda: self.frames_against_phrases(self.model.vision.frame_features(pixels), rows))]
        if (model := self.model.audio) is not None and self.heard.any():
            mel, real = self.log_mels()
            hear = lambda at: self.sounds_against_phrases(model.features(mel[at].float(), real[at])[0], at)
            work += [self.part(partial(hear, self.some_sounds(rng))) for _ in range(SOUND_PARTS)]
        return sum(self.parts.add_gradients(work))

    def clips_step(self, rng: np.random.Generator) -> float:
        """Add the gradient of whole clips, and of moments over cached features; returns the loss."""
        rows = self.share(rng.permutation(len(self.train))[: self.config.clips_per_step])
        at, captions = torch.from_numpy(rows), self.caption_of[rows]
        seen, times, mask = self.tower_features(), self.train.times_s[rows], self.train.mask[rows]
        look = lambda: self.model.vision.clip(seen[at].float(), torch.from_numpy(times), torch.from_numpy(mask))
        forward = {"text": lambda: self.texts(self.captions, captions), "vision": look}
        present: dict[str, torch.Tensor] = {}
        if (model := self.model.audio) is not None and self.heard.any():
            sounds, real = self.sound_features()
            forward["audio"] = lambda: model.embed(sounds[at].float(), real[at])
            present["audio"] = torch.from_numpy(self.heard[rows]).to(self.model.vision.device)
        encoded = dict(zip(forward, self.parts.run([self.fast(call) for call in forward.values()]), strict=True))
        cut = {name: detached(item) for name, item in encoded.items()}
        loss = self.loss({name: item.mrl for name, item in cut.items()}, captions, present)
        if self.model.fusion is not None:  # against the text only: it holds the others, so they would be easy matches
            fused = self.model.fusion(cut, present)
            loss = loss + self.loss({"fused": fused.mrl, "text": cut["text"].mrl}, captions, {})
        loss.backward()
        work: list[Part] = [partial(back, encoded[name], cut[name]) for name in encoded]
        if len(self.labelled):
            frames = self.some_moments(rng)
            chosen = seen[frames[:, 0], frames[:, 1]].float()
            work.append(self.part(lambda: self.frames_against_phrases(chosen, frames)))
        if "audio" in encoded:
            some = self.some_sounds(rng)
            hear = lambda: self.config.w_sound * self.sounds_against_phrases(sounds[some].float(), some)
            work.append(self.part(hear))
        return float(loss.detach()) + sum(self.parts.add_gradients(work))

    def part(self, loss: Callable[[], torch.Tensor]) -> Part:
        """A loss as a part of a step."""

        def run() -> tuple[torch.Tensor, float]:
            value = self.fast(loss)()
            return value, float(value.detach())

        return run

    def fast(self, call: Callable[[], T]) -> Callable[[], T]:
        """The call, its matrices multiplied in the section's precision."""

        def run() -> T:
            with products_in(self.config.precision, self.group.device):
                return call()

        return run

    def share(self, rows: np.ndarray) -> np.ndarray:
        """This rank's items of a step's: equally many on every rank, as gathering needs."""
        return rows[: len(rows) // self.group.size * self.group.size][self.group.rank :: self.group.size]

    def some_moments(self, rng: np.random.Generator) -> np.ndarray:
        """Random labelled frames, (n, 2): clip and frame."""
        return self.share(self.labelled[rng.integers(len(self.labelled), size=self.config.frames_per_step)])

    def some_sounds(self, rng: np.random.Generator) -> np.ndarray:
        """Random clips that have sound."""
        with_sound = np.flatnonzero(self.heard)
        number = max(self.group.size, self.config.sounds_per_step // SOUND_PARTS)
        return self.share(with_sound[rng.integers(len(with_sound), size=number)])

    # -- features ----------------------------------------------------------------------------------------------------

    def tower_features(self) -> torch.Tensor:
        """The image tower's features of all training frames; the tower stands still from here on."""
        if self.features is None:
            self.model.vision.tower.requires_grad_(False)
            self.model.eval()
            self.features = frame_features(self.model, self.train.frames, self.parts, self.fast)
            self.model.train()
        return self.features

    def log_mels(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-mel of all training clips (N, bins, frames) in half precision, and which states are sound."""
        if self.mels is None:
            self.mels = log_mels(self.model, self.train.sounds)
        return self.mels

    def sound_features(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The sound tower's features of all training clips, with their mask; the tower stands still from here on."""
        if self.sounds is None:
            assert self.model.audio is not None
            self.model.audio.tower.requires_grad_(False)
            self.model.eval()
            self.sounds = sound_features(self.model, *self.log_mels(), self.parts, self.fast)
            self.model.train()
        return self.sounds

    # -- losses ------------------------------------------------------------------------------------------------------

    def frames_against_phrases(self, features: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """Single frames, features (n, K, width), against the phrases of their labels."""
        return self.phrase_loss(self.model.vision.frames(features).mrl, self.train.labels[rows[:, 0], rows[:, 1]])

    def sounds_against_phrases(self, features: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """Moments of sound, features (n, L, hidden), against the phrases of what is under way then."""
        assert self.model.audio is not None
        moments = self.model.audio.moments(features, torch.from_numpy(self.train.times_s[rows]))
        heard = {width: embedded.flatten(0, 1) for width, embedded in moments.items()}
        return self.phrase_loss(heard, self.train.labels[rows].reshape(-1))

    def phrase_loss(self, embedded: dict[int, torch.Tensor], labels: np.ndarray) -> torch.Tensor:
        """The loss of the moments of all ranks that have a label, each distinct phrase encoded once."""
        everywhere = gather_rows(torch.from_numpy(labels).to(self.model.vision.device))
        known = everywhere >= 0
        if not bool(known.any()):
            return sum((rows.sum() * 0 for rows in embedded.values()), self.model.log_scale * 0)
        distinct, place = everywhere[known].unique(return_inverse=True)
        return class_loss(
            {width: gather_rows(rows)[known] for width, rows in embedded.items()},
            self.model.text([self.phrases[label] for label in distinct.tolist()]).mrl,
            place,
            self.model.log_scale,
            w_clip=self.config.w_clip,
            w_mrl=self.config.w_mrl,
        )

    def texts(self, texts: list[str], wanted: np.ndarray) -> Encoded:
        """Embeddings of `texts[wanted]`, each distinct text encoded once."""
        distinct, place = np.unique(wanted, return_inverse=True)
        encoded = self.model.text([texts[i] for i in distinct])
        at = torch.from_numpy(place).to(encoded.pooled.device)
        return Encoded(encoded.pooled[at], encoded.sequence[at], {w: rows[at] for w, rows in encoded.mrl.items()})

    def loss(
        self, embedded: dict[str, dict[int, torch.Tensor]], groups: np.ndarray, present: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """The loss over the rows of all ranks."""
        device = self.model.vision.device
        return contrastive_loss(
            {name: {w: gather_rows(rows) for w, rows in mrl.items()} for name, mrl in embedded.items()},
            self.model.log_scale,
            groups=gather_rows(torch.from_numpy(groups).to(device)),
            present={name: gather_rows(rows) for name, rows in present.items()} or None,
            weights={"audio": self.config.w_sound},
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


def detached(encoded: Encoded) -> Encoded:
    """The same numbers, cut from what made them, with gradients of their own."""
    cut = lambda rows: rows.detach().float().requires_grad_()
    return Encoded(cut(encoded.pooled), cut(encoded.sequence), {w: cut(rows) for w, rows in encoded.mrl.items()})


def back(encoded: Encoded, cut: Encoded) -> tuple[torch.Tensor, float]:
    """A part whose gradient is what the cut embeddings' gradients give in what made them."""
    pairs = [(encoded.pooled, cut.pooled), (encoded.sequence, cut.sequence)]
    pairs += [(rows, cut.mrl[width]) for width, rows in encoded.mrl.items()]
    loss = encoded.pooled.sum() * 0  # where nothing was contrasted with it
    return sum(((made * leaf.grad).sum() for made, leaf in pairs if leaf.grad is not None), loss), 0.0


def schedule(step: int, total: int) -> float:
    """Share of the peak learning rate: linear over the first tenth, then cosine to zero."""
    warm = max(1, total // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

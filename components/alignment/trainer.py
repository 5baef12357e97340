"""The training loop of the alignment: three stages as one sequence of steps, on one process or several.

Frames: the image tower learns on single frames against the phrases of the operations under way (the fastest learner;
long captions that differ in one word made the space collapse). Clips: the tower stands still, its features are computed
once, and pooling, projectors and text learn on whole clips, single frames mixed in so that phrases keep meaning them.
Sounds: the space stands still, and what hears learns its way into it (components/alignment/hearing.py).

Alone on a CPU, what a step's losses do not share runs side by side (shared/learning/parts.py): halves of a batch, and
modalities beside each other, forward as far as their embeddings and back from these embeddings' gradients.

In a group (shared/learning/group.py) each rank encodes its part of a step's items, embeddings are gathered with their
gradient, every rank computes the loss of the whole batch, and averaged gradients are those of one process.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from components.alignment.config import AlignmentConfig
from components.alignment.corpus import Corpus, number
from components.alignment.cut import Cuts, back, detached, halves, joined
from components.alignment.features import frame_features
from components.alignment.hearing import Hearing
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
SOUND_SCALE = "sound_scale"
"""Name of the sounds' temperature in a checkpoint."""
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
        num_sounds = sum(sound is not None for sound in train.sounds)
        hears = model.audio is not None and num_sounds >= max(2, self.group.size)  # fewer cannot be contrasted
        self.hearing = Hearing(self) if hears else None
        self.total = self.frame_steps + config.clip_steps + (config.sound_steps if self.hearing else 0)
        hearing = [] if self.hearing is None else self.hearing.parameters()
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
        self.trained = [*others, *hearing]
        self.parts = Parts(self.trained, threads=0 if alone else 1)
        self.captions, self.caption_of = number(train.captions)
        self.labelled = np.argwhere(train.labels >= 0)
        self.features: torch.Tensor | None = None
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
        learn, place, length = self.stage(step)
        for options, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            options["lr"] = peak * schedule(place, length)
        self.optimizer.zero_grad(set_to_none=True)
        loss = learn(rng)
        used = [parameter for parameter in self.trained if parameter.grad is not None]
        self.group.sum_gradients(used)
        for parameter in used:
            if parameter.grad is not None:
                parameter.grad.div_(self.group.size)
        torch.nn.utils.clip_grad_norm_(used, 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.log_scale.clamp_(max=MAX_LOG_SCALE)
        return loss

    def stage(self, step: int) -> tuple[Callable[[np.random.Generator], float], int, int]:
        """What a step does, its place in its stage and that stage's length."""
        if step < self.frame_steps:
            return self.frames_step, step, self.frame_steps
        step -= self.frame_steps
        if step < self.config.clip_steps or self.hearing is None:
            return self.clips_step, step, self.config.clip_steps
        place = step - self.config.clip_steps
        return partial(self.hearing.step, first=place == 0), place, self.config.sound_steps

    # -- gradients ---------------------------------------------------------------------------------------------------

    def frames_step(self, rng: np.random.Generator) -> float:
        """Add the gradient of single frames, the image tower included; returns the loss."""
        rows = self.some_frames(rng)

        def look(at: np.ndarray) -> Encoded:
            pixels = to_pixels(self.train.frames[at[:, 0], at[:, 1]], self.model.vision.image_size)
            return self.model.vision.frames(self.model.vision.frame_features(pixels))

        made = self.side_by_side([partial(look, at) for at in halves(rows)])
        cut = [detached(item) for item in made]
        loss = self.phrase_loss(joined(cut), self.train.labels[rows[:, 0], rows[:, 1]])
        return self.back_from(loss, [([one], [leaf]) for one, leaf in zip(made, cut, strict=True)])

    def clips_step(self, rng: np.random.Generator) -> float:
        """Add the gradient of whole clips, and of frames over cached features; returns the loss."""
        rows = self.share(rng.permutation(len(self.train))[: self.config.clips_per_step])
        captions, seen = self.caption_of[rows], self.tower_features()
        made = self.side_by_side([partial(self.texts, self.captions, captions), partial(self.look, rows)])
        cut = [detached(item) for item in made]
        loss = self.loss({"text": cut[0].mrl, "vision": cut[1].mrl}, captions)
        beside: list[Part] = []
        if len(self.labelled):
            frames = self.some_frames(rng)
            chosen = seen[frames[:, 0], frames[:, 1]].float()
            labels = self.train.labels[frames[:, 0], frames[:, 1]]
            beside.append(self.part(lambda: self.phrase_loss(self.model.vision.frames(chosen).mrl, labels)))
        return self.back_from(loss, [([one], [leaf]) for one, leaf in zip(made, cut, strict=True)], beside)

    def look(self, rows: np.ndarray) -> Encoded:
        """Whole clips as seen, over cached features."""
        seen, times, mask = self.tower_features(), self.train.times_s[rows], self.train.mask[rows]
        at = torch.from_numpy(rows)
        return self.model.vision.clip(seen[at].float(), torch.from_numpy(times), torch.from_numpy(mask))

    def back_from(
        self,
        loss: torch.Tensor,
        cuts: Cuts,
        beside: Sequence[Part] = (),
    ) -> float:
        """Add the gradient of a loss over embeddings, and of parts beside it; the sum of their losses.

        Args:
            loss: Over the cut embeddings.
            cuts: For each part that made some: these, and what was cut from them.
            beside: Further parts.
        """
        loss.backward()
        work: list[Part] = [partial(back, made, cut) for made, cut in cuts]
        return float(loss.detach()) + sum(self.parts.add_gradients([*work, *beside]))

    def side_by_side(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """What the calls give, in the section's precision."""
        return self.parts.run([self.fast(call) for call in calls])

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

    def some_frames(self, rng: np.random.Generator) -> np.ndarray:
        """Random labelled frames, (n, 2): clip and frame."""
        return self.share(self.labelled[rng.integers(len(self.labelled), size=self.config.frames_per_step)])

    # -- features ----------------------------------------------------------------------------------------------------

    def tower_features(self) -> torch.Tensor:
        """The image tower's features of all training frames; the tower stands still from here on."""
        if self.features is None:
            self.model.vision.tower.requires_grad_(False)
            self.model.eval()
            self.features = frame_features(self.model, self.train.frames, self.parts, self.fast)
            self.model.train()
        return self.features

    # -- losses ------------------------------------------------------------------------------------------------------

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
        self, embedded: dict[str, dict[int, torch.Tensor]], groups: np.ndarray, log_scale: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss over the rows of all ranks; at the model's temperature where no other is given."""
        return contrastive_loss(
            {name: {w: gather_rows(rows) for w, rows in mrl.items()} for name, mrl in embedded.items()},
            self.model.log_scale if log_scale is None else log_scale,
            groups=gather_rows(torch.from_numpy(groups).to(self.model.vision.device)),
            w_clip=self.config.w_clip,
            w_mrl=self.config.w_mrl,
        )

    # -- state -------------------------------------------------------------------------------------------------------

    def save(self, step: int) -> None:
        """Write a checkpoint; rank 0's is everybody's."""
        if self.group.writes:
            tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
            tensors |= checkpoint.optimizer_tensors(self.optimizer)
            if self.hearing is not None:
                tensors[SOUND_SCALE] = self.hearing.log_scale.detach()
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
        if self.hearing is not None:
            self.hearing.log_scale.data.copy_(found.tensors[SOUND_SCALE])
        self.curve = [(float(at), float(value)) for at, value in found.state["curve"]]
        log.info("resumed after step %d", found.step)
        return found.step


def schedule(step: int, total: int) -> float:
    """Share of the peak learning rate: linear over the first tenth, then cosine to zero."""
    warm = max(1, total // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

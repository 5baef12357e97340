"""The last stage: what hears learns its way into the space of pictures and texts, which stands still.

A step takes clips that sound and asks three things of the sound tower (its projector and pooling with it):

    phrases   a moment of sound is near the phrase of the operation under way then (InfoNCE, as frames learn)
    pictures  a moment of sound becomes the token of the picture seen then (squared difference, in tokens' variances)
    clips     a whole sound is near its clip's caption and its clip's pictures (InfoNCE, both pairs)

Why last, and alone: sound tells less than pictures do, so in one loss with them it pulled the space towards what can be
heard (vision -> caption R@1 fell by a tenth), and it wants a higher temperature, which is its own here. After ImageBind
(Girdhar et al. 2023) and LiT (Zhai et al. 2022), which also align to a space that stands still. Pooling starts as that
of pictures, which already turns tokens in order into a clip's embedding; a few thousand sounds are too few to learn it.
With fusion, the joint embedding of pictures and sound (and of pictures alone) learns here as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from components.alignment.cut import detached, halves, joined
from components.alignment.features import BATCH, log_mels, sound_features
from components.shared.encoders.losses import INITIAL_LOG_SCALE, MAX_LOG_SCALE, class_loss, gather_rows
from components.shared.encoders.matryoshka import Encoded, nested

if TYPE_CHECKING:
    from components.alignment.trainer import Trainer

MIN_SPREAD = 1e-8
"""Under this variance all tokens are the same: nothing can be said in multiples of it."""


@dataclass(frozen=True)
class Space:
    """What stands still: embeddings by width of C captions, P phrases and N clips, and the N clips' frames.

    Attributes:
        tokens: (N, T, D), a frame's token before pooling.
        spread: Variance of a token's coordinates.
    """

    captions: dict[int, torch.Tensor]
    phrases: dict[int, torch.Tensor]
    clips: Encoded
    tokens: torch.Tensor
    spread: float


class Hearing:
    """The sound stage of a trainer whose model hears."""

    def __init__(self, trainer: Trainer) -> None:
        assert trainer.model.audio is not None
        self.trainer, self.audio = trainer, trainer.model.audio
        self.log_scale = nn.Parameter(torch.tensor(INITIAL_LOG_SCALE, device=trainer.group.device))
        self.with_sound = np.flatnonzero([sound is not None for sound in trainer.train.sounds])
        self.mels: tuple[torch.Tensor, torch.Tensor] | None = None
        self.cached: tuple[torch.Tensor, torch.Tensor] | None = None
        self.space: Space | None = None

    def parameters(self) -> list[nn.Parameter]:
        """What learns here, and nowhere else."""
        fusion = self.trainer.model.fusion
        modules = [self.audio, *([] if fusion is None else [fusion])]
        return [self.log_scale, *(p for module in modules for p in module.parameters() if p.requires_grad)]

    def step(self, rng: np.random.Generator, *, first: bool) -> float:
        """Add the gradient of a step; returns the loss. Before the stage's first, pooling becomes that of pictures."""
        trainer, config, space = self.trainer, self.trainer.config, self.stood_still()
        self.listen()
        if first:
            self.audio.pool.load_state_dict(trainer.model.vision.pool.state_dict())
        rows = trainer.share(rng.permutation(self.with_sound)[: config.sounds_per_step])
        made = trainer.side_by_side([partial(self.hear, at) for at in halves(rows)])
        cut = [[detached(item) for item in half] for half in made]
        whole, moments = [half[0] for half in cut], [half[1] for half in cut]
        tokens = torch.cat([item.pooled for item in moments])
        heard = tokens.detach().any(1)  # nothing is, past the end of a sound
        loss = config.w_phrases * self.near_phrases(joined(moments), heard, rows)
        loss = loss + config.w_pictures * self.like_pictures(tokens, heard, rows)
        at, captions = torch.from_numpy(rows), trainer.caption_of[rows]
        texts = {width: some[torch.from_numpy(captions)] for width, some in space.captions.items()}
        seen = {width: some[at] for width, some in space.clips.mrl.items()}
        for name, others in (("text", texts), ("vision", seen)):
            loss = loss + trainer.loss({"audio": joined(whole), name: others}, captions, self.log_scale)
        if trainer.model.fusion is not None:
            loss = loss + self.fused(whole, at, texts, captions)
        total = trainer.back_from(loss, list(zip(made, cut, strict=True)))
        with torch.no_grad():
            self.log_scale.clamp_(max=MAX_LOG_SCALE)
        return total

    def hear(self, rows: np.ndarray) -> tuple[Encoded, Encoded]:
        """Whole sounds of some clips; and the moments at which their frames were seen, one after the other."""
        features, mask = self.sound(rows)
        around = self.audio.heard(features, mask, torch.from_numpy(self.trainer.train.times_s[rows]))
        moments = around.flatten(0, 1)
        return self.audio.embed(features, mask), Encoded(moments, around, nested(moments, self.audio.widths))

    # -- losses ------------------------------------------------------------------------------------------------------

    def near_phrases(self, moments: dict[int, torch.Tensor], heard: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """Moments against the phrases of what is under way."""
        space, trainer, config = self.stood_still(), self.trainer, self.trainer.config
        labels = torch.from_numpy(trainer.train.labels[rows].reshape(-1)).to(heard.device)
        labels = gather_rows(labels.masked_fill(~heard, -1))
        known = labels >= 0
        if not bool(known.any()):
            return self.log_scale * 0
        near = {width: gather_rows(some)[known] for width, some in moments.items()}
        return class_loss(near, space.phrases, labels[known], self.log_scale, w_clip=config.w_clip, w_mrl=config.w_mrl)

    def like_pictures(self, moments: torch.Tensor, heard: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """Moments (n, D) against the tokens of the frames seen then; zero where these never vary and tell nothing."""
        space, real = self.stood_still(), torch.from_numpy(self.trainer.train.mask[rows].reshape(-1))
        if space.spread < MIN_SPREAD:
            return self.log_scale * 0
        wanted = space.tokens[torch.from_numpy(rows)].flatten(0, 1)
        apart = gather_rows((moments - wanted).square().mean(1))
        counted = gather_rows(real.to(heard.device) & heard)
        return apart[counted].sum() / counted.sum().clamp(min=1) / space.spread

    def fused(
        self, whole: list[Encoded], at: torch.Tensor, texts: dict[int, torch.Tensor], captions: np.ndarray
    ) -> torch.Tensor:
        """Pictures with sound, and pictures alone, against captions only: they hold pictures and sound themselves."""
        fusion, space = self.trainer.model.fusion, self.stood_still()
        assert fusion is not None
        sequence = torch.cat([item.sequence for item in whole])
        sound = Encoded(torch.cat([item.pooled for item in whole]), sequence, joined(whole))
        seen = space.clips.rows(at)
        made = [fusion({"vision": seen, "audio": sound}), fusion({"vision": seen})]
        return sum(
            (self.trainer.loss({"fused": one.mrl, "text": texts}, captions, self.log_scale) for one in made),
            torch.zeros_like(self.log_scale),
        )

    # -- what is computed once ---------------------------------------------------------------------------------------

    def sound(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """The sound tower's features of some clips, with their mask."""
        if self.cached is not None:
            return self.cached[0][rows], self.cached[1][rows]
        assert self.mels is not None
        return self.audio.features(self.mels[0][rows].float(), self.mels[1][rows])

    def listen(self) -> None:
        """Log-mel of all training clips; of a tower that does not learn, its features in their place."""
        trainer = self.trainer
        if self.mels is None and self.cached is None:
            self.mels = log_mels(trainer.model, trainer.train.sounds)
            if not any(p.requires_grad for p in self.audio.tower.parameters()):
                self.cached = sound_features(trainer.model, *self.mels, trainer.parts, trainer.fast)
                self.mels = None

    def stood_still(self) -> Space:
        """Pictures and texts of all training clips; what made them stands still from here on."""
        if self.space is None:
            model = self.trainer.model
            for still in (model.vision, model.text):
                still.requires_grad_(False)
            model.log_scale.requires_grad_(False)
            model.eval()
            self.space = self.computed()
            model.train()
        return self.space

    @torch.no_grad()
    def computed(self) -> Space:
        """The space as the model has it now."""
        trainer, model, features = self.trainer, self.trainer.model, self.trainer.tower_features()
        batches = np.array_split(np.arange(len(trainer.train)), -(-len(trainer.train) // BATCH))
        tokens, seen = [], []
        for rows in batches:
            seen.append(trainer.look(rows))
            frames = features[torch.from_numpy(rows)].flatten(0, 1).float()
            tokens.append(model.vision.frames(frames).pooled.unflatten(0, (len(rows), -1)))
        captions = [model.text(trainer.captions[at : at + BATCH]) for at in range(0, len(trainer.captions), BATCH)]
        every, real = torch.cat(tokens), torch.from_numpy(trainer.train.mask)
        pooled, sequence = torch.cat([item.pooled for item in seen]), torch.cat([item.sequence for item in seen])
        return Space(
            captions=joined(captions),
            phrases=model.text(trainer.phrases).mrl,
            clips=Encoded(pooled, sequence, joined(seen)),
            tokens=every,
            spread=float(every[real.to(every.device)].var()),
        )

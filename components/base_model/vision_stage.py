"""First stage: the vision tower learns, frame by frame, which operation is under way and how far it is.

Loss = cross-entropy(label) + phase_weight * (phase - predicted)^2 + crop_weight * cross-entropy(close-up value), the
last on crops of the evidence, so that the frozen tower shows a crop's fine pattern to the language model. The heads are
linear and thrown away. Dense labels on single frames were the fastest learner of all that was tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.nn import functional

from components.base_model.config import VisionStageConfig
from components.base_model.material import Example
from components.shared.learning.parts import Parts
from components.shared.learning.precision import Precision, products_in
from components.shared.policy.images import patchify
from components.shared.policy.native import NativePolicy
from components.shared.policy.vision import encode_equal
from components.shared.runtime.progress import Progress

SHIFT = 2
LIGHT = 0.1
PARTS = 2
"""A step's batch in parts, computed side by side."""


@dataclass
class Frames:
    """Frames with labels: `pixels` is a list of clips' uint8 (frames, S, S, 3); `where` (N, 2) clip and frame."""

    pixels: list[np.ndarray]
    where: np.ndarray
    labels: np.ndarray
    phases: np.ndarray
    num_labels: int
    """Scored labels; class `num_labels` is everything else."""


def frames_of(examples: Sequence[Example], labels: Sequence[str]) -> Frames:
    """All frames of the examples; a label that is not scored (null, none) becomes class len(labels)."""
    number = {name: index for index, name in enumerate(labels)}
    where, classes, phases = [], [], []
    for clip, example in enumerate(examples):
        for frame, (label, phase) in enumerate(zip(example.meta.frame_labels, example.meta.frame_phases)):
            where.append((clip, frame))
            classes.append(number.get(label, len(labels)))
            phases.append(phase)
    return Frames(
        [example.view for example in examples],
        np.array(where),
        np.array(classes),
        np.array(phases, np.float32),
        len(labels),
    )


def crops_of(examples: Sequence[Example], choices: Sequence[str]) -> tuple[list[np.ndarray], np.ndarray]:
    """(crops of the evidence, index of the true value of each)."""
    images, values = [], []
    for example in examples:
        if example.closeup is not None and example.closeup.truth.get("value") in choices:
            for crop in example.crops.values():
                images.append(crop)
                values.append(choices.index(example.closeup.truth["value"]))
    return images, np.array(values, np.int64)


def share(number: int, part: int) -> int:
    """How many of `number` items the part of a step has."""
    return number // PARTS + (part < number % PARTS)


def one_cycle(step: int, steps: int, peak: float) -> float:
    """Learning rate: linear up over the first tenth, then a cosine down to a fiftieth."""
    warm = max(1, steps // 10)
    if step < warm:
        return peak * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return peak * (0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * share))))


def train_vision(
    policy: NativePolicy,
    frames: Frames,
    crops: tuple[list[np.ndarray], np.ndarray],
    config: VisionStageConfig,
    seed: int,
    precision: Precision = "float32",
) -> tuple[torch.nn.Linear, list[tuple[float, float]]]:
    """Train the tower in place.

    Args:
        policy: Its tower is trained and frozen again, its feature cache cleared.
        frames: Training frames.
        crops: Crops of the evidence with their values; may be empty.
        config: Steps, batch, rates.
        seed: Of batches and heads.
        precision: Of products of matrices.

    Returns:
        The head (width -> labels, everything else, phase), for measuring, and the loss curve.
    """
    visual, patching = policy.model.model.visual, policy.patching
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = torch.nn.Linear(policy.model.config.text_config.hidden_size, frames.num_labels + 2)
        values = torch.nn.Linear(head.in_features, max(1, int(crops[1].max()) + 1 if len(crops[1]) else 1))
    visual.requires_grad_(True)
    parameters = [*visual.parameters(), *head.parameters(), *values.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    curve = []
    bar = Progress(config.steps, "vision stage", unit="steps")

    def part_of(step: int, part: int) -> tuple[torch.Tensor, float]:
        rng = np.random.default_rng([seed, 1, step, part])
        chosen = rng.integers(len(frames.where), size=share(config.batch, part))
        images = np.stack([frames.pixels[clip][frame] for clip, frame in frames.where[chosen]])
        with products_in(precision):
            loss = frame_loss(visual, patching, head, jitter(images, rng), frames, chosen, config.phase_weight)
            loss = loss * (len(chosen) / config.batch)
            if len(crops[0]) and (number := share(config.crops, part)):
                seen = crop_loss(visual, patching, values, crops, number, rng)
                loss = loss + config.crop_weight * number / config.crops * seen
        return loss, loss.item()

    with Parts(parameters) as parts:
        for step in range(config.steps):
            for group in optimizer.param_groups:
                group["lr"] = one_cycle(step, config.steps, config.learning_rate)
            optimizer.zero_grad(set_to_none=True)
            losses = parts.add_gradients([partial(part_of, step, part) for part in range(min(PARTS, config.batch))])
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            curve.append((float(step), sum(losses)))
            bar.advance(note=f"loss {curve[-1][1]:.3f}")
    visual.requires_grad_(False)
    standardise(policy, head, frames, seed)
    return head, curve


def standardise(policy: NativePolicy, head: torch.nn.Linear, frames: Frames, seed: int, sample: int = 2048) -> None:
    """Centre the tower's features and scale them to a mean norm of 1, by folding both into its last linear layer.

    Trained features had a norm of 31 where token embeddings have 0.3: what the language model writes at a frame's
    position is then too small to change it, and nothing beyond the frame's own label can be kept there. The head is
    changed by the inverse, so that it still says the same.
    """
    chosen = np.random.default_rng([seed, 4]).permutation(len(frames.where))[:sample]
    images = [frames.pixels[clip][frame] for clip, frame in frames.where[chosen]]
    policy.features.clear()
    features = torch.cat(policy.features.encode(images))
    policy.features.clear()
    mean = features.mean(0)
    norm = (features - mean).norm(dim=1).mean().clamp_min(1e-6)
    last = policy.model.model.visual.merger.mlp[-1]
    with torch.no_grad():
        head.bias.add_(head.weight @ mean)
        head.weight.mul_(norm)
        last.weight.div_(norm)
        last.bias.sub_(mean).div_(norm)


def frame_loss(visual, patching, head, images, frames, chosen, phase_weight):  # type: ignore[no-untyped-def]
    """Label and phase loss of one batch of frames."""
    patches, grid = patchify(images, patching)
    output = head(encode_equal(visual, patches, grid).mean(1)).float()
    truth = torch.from_numpy(frames.labels[chosen])
    phase = torch.from_numpy(frames.phases[chosen])
    return functional.cross_entropy(output[:, :-1], truth) + phase_weight * functional.mse_loss(output[:, -1], phase)


def crop_loss(visual, patching, values, crops, number, rng):  # type: ignore[no-untyped-def]
    """Cross-entropy of the value shown by a batch of equal-sized crops."""
    images, truth = crops
    picked = rng.integers(len(images), size=number)
    shape = images[picked[0]].shape
    same = [index for index in picked if images[index].shape == shape]
    patches, grid = patchify(np.stack([images[index] for index in same]), patching)
    output = values(encode_equal(visual, patches, grid).mean(1)).float()
    return functional.cross_entropy(output, torch.from_numpy(truth[same]))


def jitter(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift each image by up to SHIFT pixels (edges repeated) and scale its brightness by up to LIGHT."""
    size = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
    moved = np.empty_like(images)
    for index, (y, x) in enumerate(rng.integers(0, 2 * SHIFT + 1, size=(len(images), 2))):
        moved[index] = padded[index, y : y + size[0], x : x + size[1]]
    light = 1 + rng.uniform(-LIGHT, LIGHT, size=(len(images), 1, 1, 1)).astype(np.float32)
    return np.clip(moved * light, 0, 255).astype(np.uint8)


def frame_accuracy(policy: NativePolicy, head: torch.nn.Linear, frames: Frames, limit: int, seed: int) -> float:
    """Share of right labels among at most `limit` random frames whose label is scored."""
    scored = np.flatnonzero(frames.labels < frames.num_labels)
    chosen = np.random.default_rng([seed, 2]).permutation(scored)[:limit]
    right = 0
    with torch.no_grad():
        for start in range(0, len(chosen), 256):
            part = chosen[start : start + 256]
            images = np.stack([frames.pixels[clip][frame] for clip, frame in frames.where[part]])
            patches, grid = patchify(images, policy.patching)
            output = head(encode_equal(policy.model.model.visual, patches, grid).mean(1))
            right += int((output[:, :-1].argmax(-1).numpy() == frames.labels[part]).sum())
    return right / max(1, len(chosen))

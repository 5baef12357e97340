"""The policy's starting weights.

`tiny` builds a Qwen2.5-VL from configuration, trains its tokenizer on the project's own text, its vision tower on frame
labels and its language model on answers; `hub` provides a downloaded one. Either way the output is a folder in hub
layout with policy.json beside the weights.
Guarantees: steps, not time, bound the training, so the same inputs and seed give the same weights on the same machine;
figures come from validation people only. Resumes inside the language stage.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.base_model.config import BaseModelConfig
from components.base_model.lessons import Lessons, caption_text
from components.base_model.material import Example, Texts, read_examples, read_texts
from components.shared.learning.answer_figures import EXPLAINED
from components.shared.policy.native import NativePolicy
from components.shared.runtime.artifacts import sha256_bytes, sha256_file
from components.shared.runtime.config import canonical_json
from components.shared.runtime.errors import ConfigError
from components.shared.runtime.report import Report
from components.shared.samples.index import read_index
from components.shared.work.manifest import Manifest, load_manifest

if TYPE_CHECKING:
    from components.shared.policy.prefix import PrefixPolicy

log = logging.getLogger(__name__)
NAMES = {
    "native": "Qwen2.5-VL",
    "prefix": "Qwen language model behind aligned image tokens",
    "prefix_trm": "Qwen language model behind aligned image tokens, with recursive refinement,",
    "trm_decoder": "recursive decoder (experiment) behind aligned image tokens",
}


@dataclass(frozen=True)
class BaseInputs:
    """What the step reads."""

    clips: Path
    trajectories: Path
    recordings: Path
    encoder: Path | None = None
    """The aligned encoder; needed by every policy but `native`."""


@dataclass(frozen=True)
class BaseOutputs:
    """What the step writes."""

    model: Path
    work: Path


def prepare_base(config: BaseModelConfig, inputs: BaseInputs, outputs: BaseOutputs) -> Report:
    """Write the base folder; see the module's docstring.

    Raises:
        InputError: no training clip.
        ArtifactError: a hub folder that is incomplete or altered.
        EnvironmentFault: no network and no local folder.
    """
    manifest = load_manifest(inputs.recordings)
    if config.kind == "hub":
        return from_hub(config, manifest, outputs)
    return pretrain(config, manifest, inputs, outputs)


def from_hub(config: BaseModelConfig, manifest: Manifest, outputs: BaseOutputs) -> Report:
    """Provide a downloaded base and describe it."""
    from components.base_model.hub import provide
    from components.shared.policy.base_folder import base_digest
    from components.shared.policy.description import PolicyDescription, write_description
    from components.shared.policy.prompts import instructions

    target = outputs.model
    digests = provide(config.hub, target, outputs.work)
    description = PolicyDescription(
        source="hub",
        revision=config.hub.revision,
        labels=manifest.labels,
        view_size=config.hub.view_size,
        max_pixels=config.hub.max_pixels,
        system=instructions(manifest.labels),
        provenance=manifest.provenance,
    )
    write_description(description, target)
    size = sum(path.stat().st_size for path in target.iterdir())
    name = config.hub.path or f"{config.hub.repo} at {config.hub.revision}"
    return Report(
        metrics={"size_bytes": float(size)},
        provenance=manifest.provenance,
        markdown=f"Base provided from {name}: {size / 2**20:.0f} MiB.",
        facts={"base_digest": base_digest(target), "revision": config.hub.revision, "files": digests},
    )


def pretrain(config: BaseModelConfig, manifest: Manifest, inputs: BaseInputs, outputs: BaseOutputs) -> Report:
    """Build and train the tiny model."""
    from components.base_model.language_stage import train_language
    from components.base_model.vision_stage import crops_of, frame_accuracy, frames_of, train_vision
    from components.shared.learning.asking import constant_segment, operation_figures, read_asked
    from components.shared.operations import default_registry

    clock = Clock()
    registry = default_registry(config.operations)
    train = read_examples(inputs.clips, inputs.trajectories, "train", config.max_clips, registry, seed=config.seed)
    texts = read_texts(inputs.trajectories)
    policy = new_policy(config, manifest, train, texts, inputs.encoder)
    clock.lap("reading")
    head, vision_curve = None, None
    if isinstance(policy, NativePolicy):
        frames = frames_of(train, manifest.labels)
        crops = crops_of(train, texts.choices)
        head, vision_curve = train_vision(policy, frames, crops, config.vision, config.seed, config.precision)
    else:
        policy.calibrate(sample_frames(train, config.seed))
    clock.lap("vision")
    figures: dict[str, float] = {}
    validated = read_index(inputs.clips).count("validation") > 0
    if validated and isinstance(policy, NativePolicy) and head is not None:
        held_out = read_examples(inputs.clips, inputs.trajectories, "validation", config.num_validation, None)
        figures["frame_accuracy"] = frame_accuracy(
            policy, head, frames_of(held_out, manifest.labels), 4096, config.seed
        )
    lessons = Lessons(train, config.language, texts.thoughts, config.seed)
    key = work_key(config, inputs, manifest)
    language_curve = train_language(policy, lessons, config.language, outputs.work, key, config.precision)
    clock.lap("language")
    if validated:
        asked = read_asked(inputs.clips, inputs.trajectories, "validation", config.num_validation)
        figures |= operation_figures(policy, asked, manifest.labels, constant_segment(inputs.trajectories))
    clock.lap("measuring")
    policy.save_base(outputs.model)
    metrics = {**figures, **clock.seconds}
    metrics["num_parameters"] = float(sum(parameter.numel() for parameter in policy.model.parameters()))
    metrics["num_train_clips"] = float(len(train))
    return Report(
        metrics=metrics,
        provenance=read_index(inputs.clips).provenance,
        curves={"language_loss": language_curve} | ({"vision_loss": vision_curve} if vision_curve else {}),
        markdown=summary(metrics, config.policy),
        facts={"base_digest": policy.base_digest, "labels": list(manifest.labels), "choices": list(texts.choices)},
    )


def new_policy(
    config: BaseModelConfig, manifest: Manifest, train: Sequence[Example], texts: Texts, encoder: Path | None
) -> NativePolicy | PrefixPolicy:
    """A tiny policy with random weights and a tokenizer for this project's text.

    Raises:
        ConfigError: a policy that stands on the aligned encoder, and no encoder.
    """
    from components.shared.policy.prompts import CAPTION_ASK
    from components.shared.policy.tiny import TinySize, build_tiny, build_tiny_prefix

    example = train[0]
    corpus = [*manifest.captions.values(), *(caption_text(item) for item in train[:200])]
    corpus += [*texts.questions, *texts.thoughts, *texts.results]
    about: dict[str, Any] = {
        "choices": texts.choices,
        "phrases": (*texts.phrases(), CAPTION_ASK),
        "corpus": corpus,
        "num_frames": len(example.view),
        "view_size": example.view.shape[1],
        "duration_s": example.meta.duration_s,
        "size": TinySize(**config.size.model_dump()),
        "vocabulary": config.vocabulary,
        "seed": config.seed,
        "provenance": manifest.provenance,
    }
    if config.policy == "native":
        return build_tiny(manifest.labels, **about)
    from components.shared.encoders.model import WEIGHTS, load_model

    folder = handed_over(config, encoder)
    model, digest = load_model(folder), sha256_file(folder / WEIGHTS)
    return build_tiny_prefix(manifest.labels, model, digest, kind=config.policy, recursion=config.recursion, **about)


def handed_over(config: BaseModelConfig, encoder: Path | None) -> Path:
    """The alignment step's encoder.

    Raises:
        ConfigError: there is none.
    """
    if encoder is None:
        raise ConfigError(
            f"policy {config.policy} stands on the alignment step's encoder, which this pipeline, compiled for "
            "another policy, does not hand to base_model.",
            remedy=f"Compile or run with base_model.policy={config.policy} in the configuration, not in the run form.",
        )
    return encoder


def sample_frames(examples: Sequence[Example], seed: int, number: int = 2048) -> list[np.ndarray]:
    """Random frames of the examples, at most one of each pair (clip, frame)."""
    places = [(clip, frame) for clip, example in enumerate(examples) for frame in range(len(example.view))]
    chosen = np.random.default_rng([seed, 4]).permutation(len(places))[:number]
    return [examples[clip].view[frame] for clip, frame in (places[index] for index in chosen)]


def work_key(config: BaseModelConfig, inputs: BaseInputs, manifest: Manifest) -> str:
    """Names configuration and data: a checkpoint of other ones is not resumed."""
    from components.shared.encoders.model import WEIGHTS

    facts: list[Any] = [read_index(path).model_dump(mode="json") for path in (inputs.clips, inputs.trajectories)]
    facts += [manifest.labels, manifest.captions]
    if config.policy != "native":
        facts.append(sha256_file(handed_over(config, inputs.encoder) / WEIGHTS))
    return sha256_bytes(canonical_json([config.model_dump(mode="json"), facts]).encode())


@dataclass
class Clock:
    """Seconds of each stage."""

    def __post_init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """Close a stage."""
        now = time.monotonic()
        self.seconds[f"{name}_seconds"] = round(now - self._last, 1)
        self._last = now


def summary(metrics: dict[str, float], policy: str) -> str:
    """The report's text."""
    lines = [
        f"A tiny {NAMES[policy]} of {metrics['num_parameters'] / 1e6:.1f} M parameters, pretrained on "
        f"{metrics['num_train_clips']:.0f} clips of training people.",
    ]
    if "num_windows" not in metrics:
        lines += ["", "There is no validation clip: nothing was measured."]
    if "frame_accuracy" in metrics:
        lines += [
            "",
            f"Vision: {metrics['frame_accuracy']:.3f} of the frames of validation people right "
            f"({metrics['vision_seconds']:.0f} s).",
        ]
    if metrics.get("num_windows"):
        lines += [
            "",
            f"Language: OCA {metrics['oca']:.3f}, AA@1 {metrics['aa']:.3f} on {metrics['num_windows']:.0f} windows, "
            f"tIoU@0.5 {metrics['tiou']:.3f} on {metrics['num_boundary_windows']:.0f} boundary windows "
            f"(best constant segment {metrics['tiou_constant']:.3f}), {metrics['valid_share']:.1%} valid answers, "
            f"{metrics['distinct_segments']:.0f} distinct segments ({metrics['language_seconds']:.0f} s).",
            "",
            EXPLAINED,
        ]
    return "\n".join(lines)

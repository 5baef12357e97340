"""The promoted model folder as the service and its update worker use it.

Role: one loader for both processes, so that what learns is what serves. Layout of the folder: components/promotion.
Guarantee: either everything the service needs is there and consistent, or `ModelNotReadyError` names what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.shared.learning.episode import Episode, SourceFrames, Task
from components.shared.operations import Registry, default_registry
from components.shared.policy import adapters
from components.shared.policy.answers import parse_reply
from components.shared.policy.decoder import DecoderPolicy
from components.shared.policy.load import load_policy
from components.shared.policy.prompts import conversation_for
from components.shared.runtime.artifacts import read_json, tree_digest
from components.shared.runtime.errors import ModelNotReadyError, PixelisError
from components.shared.samples import read_clip_metas, read_clips, read_questions
from components.shared.samples.jpeg import decode_jpeg
from components.shared.samples.trajectory import Question
from components.ttrl.config import TtrlConfig
from components.ttrl.voting import Answer

CANARY = "canary"
WINDOW_S = 5.0
"""Where the model carries no canary clip that says it."""


@dataclass
class PromotedModel:
    """A loaded model.

    Attributes:
        digest: Of the whole folder: what was promoted.
        anchor_digest: Of the promoted adapter's tensors, empty where the base itself was promoted.
        sampler: Frame sampler of its training clips.
        window_s: Length of its windows in seconds.
    """

    folder: Path
    digest: str
    anchor_digest: str
    policy: DecoderPolicy
    registry: Registry
    labels: tuple[str, ...]
    sampler: str
    window_s: float
    provenance: str

    @property
    def num_frames(self) -> int:
        """Frames of a window."""
        return self.policy.description.num_frames

    @property
    def view_size(self) -> int:
        """Side of the policy's frames in pixels."""
        return self.policy.description.view_size

    def answer_of(self, episode: Episode) -> Answer | None:
        """An episode's answer with known labels and times inside the window, else None (an abstention).

        Read from the last message whatever kind of question was asked: nobody says it of a stranger's question.
        """
        last = episode.messages[-1]
        if episode.truncated or last.role != "assistant":
            return None
        choices = self.policy.description.choices
        return parse_reply(last.text, labels=self.labels, choices=choices, duration_s=self.window_s).answer

    def use_adapter(self, directory: Path | None) -> None:
        """Serve with this adapter; None is the promoted one."""
        if directory is None and not self.anchor_digest:
            if self.policy.has_adapter:
                self.policy.set_adapter_state(self.anchor_state())
            return
        self.policy.load_adapter(directory or self.folder / "adapter")

    def anchor_state(self) -> dict[str, Any]:
        """The promoted adapter's tensors; where the base was promoted, those of the adapter that changes nothing."""
        import torch

        if self.anchor_digest:
            return adapters.read(self.folder / "adapter", self.policy.base_digest)[1]
        state = self.policy.adapter_state()
        return {name: torch.zeros_like(tensor) if "lora_B" in name else tensor for name, tensor in state.items()}


class JpegFrames(Sequence[np.ndarray]):
    """Source frames kept encoded, decoded when touched: uint8 RGB (height, width, 3)."""

    def __init__(self, jpegs: Sequence[bytes]) -> None:
        self._jpegs = jpegs

    def __len__(self) -> int:
        return len(self._jpegs)

    def __getitem__(self, index: Any) -> np.ndarray:  # type: ignore[override]
        return decode_jpeg(self._jpegs[range(len(self))[index]])


def load_promoted(folder: Path, config: TtrlConfig) -> PromotedModel:
    """Load a promoted model.

    Raises:
        ModelNotReadyError: a folder that is incomplete or damaged.
    """
    try:
        facts = read_json(folder / "promotion.json")
        clip = next(iter(read_clip_metas(folder / CANARY, CANARY)), None)
        adapter = folder / "adapter"
        policy = load_policy(
            folder / "base",
            adapter if adapter.is_dir() else None,
            device=pick_device(config.device),
            quantisation=config.quantisation,
        )
    except (PixelisError, OSError, KeyError) as error:
        raise ModelNotReadyError(
            f"the promoted model in {folder} cannot be loaded: {error}", remedy="Promote it again."
        ) from error
    return PromotedModel(
        folder=folder,
        digest=tree_digest(folder),
        anchor_digest=adapter_digest(adapter) if adapter.is_dir() else "",
        policy=policy,
        registry=default_registry(config.operations),
        labels=tuple(facts.get("labels") or policy.description.labels),
        sampler=clip.sampler if clip else "uniform",
        window_s=clip.duration_s if clip else WINDOW_S,
        provenance=str(facts.get("provenance", "synthetic")),
    )


def pick_device(wanted: str) -> str:
    """The device to run on."""
    if wanted != "auto":
        return wanted
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def adapter_digest(directory: Path) -> str:
    """Digest of an adapter folder's tensors, as its record says (loading checks the tensors against it)."""
    return str(read_json(directory / adapters.RECORD)["digest"])


def canary_tasks(model: PromotedModel, limit: int) -> list[Task]:
    """The first `limit` canary questions, evenly over their true answers, ready to be asked.

    Raises:
        ModelNotReadyError: the model carries no canary questions, so no update could be judged.
    """
    folder = model.folder / CANARY
    try:
        questions = spread(read_questions(folder, CANARY), limit)
        wanted = {question.clip_id for question in questions}
        clips = {clip.meta.clip_id: clip for clip in read_clips(folder, CANARY) if clip.meta.clip_id in wanted}
    except PixelisError as error:
        raise ModelNotReadyError(f"the canary set of {model.folder} cannot be read: {error}") from error
    if not questions or wanted - clips.keys():
        raise ModelNotReadyError(f"{folder} holds no canary questions with their clips, so no update can be judged.")
    return [
        Task(
            question,
            conversation_for(question, clip.view_frames, clip.meta.frame_times_s),
            SourceFrames(clip),
        )
        for question, clip in ((question, clips[question.clip_id]) for question in questions)
    ]


def spread(questions: Sequence[Question], limit: int) -> list[Question]:
    """At most `limit` questions, taking turns among the true answers, in a fixed order."""
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(f"{question.kind}:{question.truth.get('operation', question.truth.get('value'))}", []).append(
            question
        )
    chosen: list[Question] = []
    turn = 0
    while len(chosen) < min(limit, len(questions)):
        for name in sorted(groups):
            if turn < len(groups[name]) and len(chosen) < limit:
                chosen.append(groups[name][turn])
        turn += 1
    return chosen

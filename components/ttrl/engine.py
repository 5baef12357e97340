"""Answers questions: rollouts of one input that vote, and the embeddings under which an experience is found again.

Role: the only owner of the serving policy. It knows neither HTTP nor the buffer. One caller at a time: `batching.py`
gives it a thread of its own.

Guarantees: every rollout of a request sees the same window (other frames of it, other sampling noise); an answer that
names an unknown label or a time outside of the window is an abstention; nothing is invented where all abstain.
Not guaranteed: that a request answered in another batch samples the same rollouts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.shared.learning.episode import Episode, Task, run_episodes
from components.shared.policy.prompts import conversation_for
from components.shared.runtime.errors import PixelisError
from components.shared.samples.trajectory import Question
from components.ttrl.config import TtrlConfig
from components.ttrl.model import JpegFrames, PromotedModel, load_promoted
from components.ttrl.voting import Answer, Ballot, vote
from components.ttrl.watching import Window

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """One question about one window."""

    window: Window
    question: str
    num_rollouts: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What the rollouts of one request say."""

    ballot: Ballot
    answers: tuple[Answer | None, ...]
    trajectory: tuple[dict[str, Any], ...]
    """Calls of the rollout that represents the winner, each with arguments and whether it worked."""
    adapter_digest: str
    visual: np.ndarray | None
    """Embedding of the window, float32 (width,); None without an encoder."""
    text: np.ndarray | None
    """Embedding of the question."""


class Engine:
    """The serving policy and its encoder."""

    def __init__(self, folder: Path, config: TtrlConfig) -> None:
        self.config = config
        self.model: PromotedModel = load_promoted(folder, config)
        self.adapter_digest = self.model.anchor_digest
        self.encoder, self.encoder_fault = _encoder(self.model.folder / "encoder")

    @property
    def embedding_width(self) -> int:
        """Width of the embeddings, 0 without an encoder."""
        return max(self.encoder.widths) if self.encoder is not None else 0

    def answer(self, requests: Sequence[Asked]) -> list[Outcome]:
        """Answer a batch of requests."""
        tasks: list[Task] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            question = Question(
                question_id=f"served-{number}",
                clip_id=request.window.key,
                split="test",
                kind="operation",
                text=request.question,
                truth={},
            )
            for rollout in range(request.num_rollouts):
                look = request.window.looks[rollout % len(request.window.looks)]
                conversation = conversation_for(question, look.view_frames, look.times_s)
                tasks.append(Task(question, conversation, JpegFrames(look.jpegs)))
                owners.append(number)
        episodes = run_episodes(
            self.model.policy,
            tasks,
            self.model.registry,
            temperature=self.config.temperature,
            max_turns=self.config.max_turns,
            max_new_tokens=self.config.max_new_tokens,
            seed=requests[0].seed,
        )
        texts = self._embed_texts([request.question for request in requests])
        outcomes = []
        for number, request in enumerate(requests):
            mine = [episode for episode, owner in zip(episodes, owners, strict=True) if owner == number]
            outcomes.append(self._outcome(request, mine, texts[number]))
        return outcomes

    def embed(self, view: np.ndarray, times_s: Sequence[float], question: str) -> tuple[np.ndarray, np.ndarray]:
        """(visual, text) embeddings, float32 (width,) each, of a window and a question."""
        width = self.embedding_width
        return self.encoder.embed_clip(view, times_s)[width], self.encoder.embed_text([question])[width][0]

    def swap_adapter(self, directory: Path | None, digest: str) -> None:
        """Serve with another adapter from the next batch on; None goes back to the promoted one.

        Raises:
            ArtifactError: the folder is damaged or of another base; the adapter in use stays.
        """
        self.model.use_adapter(directory)
        self.adapter_digest = digest if directory is not None else self.model.anchor_digest

    def _outcome(self, request: Asked, episodes: Sequence[Episode], text: np.ndarray | None) -> Outcome:
        answers = tuple(self.model.answer_of(episode) for episode in episodes)
        ballot = vote(answers)
        shown = episodes[ballot.winner.representative] if ballot.winner else episodes[0]
        trajectory = tuple(
            {
                "name": call.name,
                "arguments": call.arguments,
                "ok": call.ok,
                "error": call.error,
                "thought": call.thought,
            }
            for call in shown.calls
        )
        visual = None
        if self.encoder is not None:
            look = request.window.looks[0]
            visual = self.encoder.embed_clip(look.view_frames, look.times_s)[self.embedding_width]
        return Outcome(ballot, answers, trajectory, self.adapter_digest, visual, text)

    def _embed_texts(self, texts: Sequence[str]) -> Sequence[np.ndarray | None]:
        if self.encoder is None:
            return [None] * len(texts)
        return list(self.encoder.embed_text(list(texts))[self.embedding_width])


def _encoder(folder: Path) -> tuple[Any, str]:
    """(the encoder, "") or (None, why there is none): without it the service answers, but stores nothing."""
    if not folder.is_dir():
        return None, "the promoted model carries no encoder"
    from components.shared.encoders.encoder import load_encoder

    try:
        return load_encoder(folder), ""
    except (PixelisError, OSError) as error:
        log.error("encoder of the promoted model cannot be loaded: %s", error)
        return None, "the promoted model's encoder cannot be loaded"

"""Episodes built by hand, and a policy that says what a test tells it to say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.shared.learning.episode import CallRecord, Episode
from components.shared.policy.interface import Conversation, Generation, Message, Policy
from components.shared.samples.trajectory import Question

OPERATION_TRUTH = {"operation": "Picking", "start_s": 1.0, "end_s": 3.0, "next_operation": "Scan Label"}


class ScriptedPolicy(Policy):
    """Says, for each conversation, what `say(conversation)` gives; counts its batches."""

    def __init__(self, say: Callable[[Conversation], str | Generation]) -> None:
        self.say = say
        self.batches: list[int] = []
        self.seeds: list[int] = []

    @property
    def digest(self) -> str:
        return "0" * 64

    def generate(
        self,
        conversations: Sequence[Conversation],
        *,
        temperature: float = 0.0,
        max_new_tokens: int = 48,
        seed: int = 0,
        beginnings: Sequence[str] = (),
    ) -> list[Generation]:
        self.batches.append(len(conversations))
        self.seeds.append(seed)
        said = [self.say(conversation) for conversation in conversations]
        made = [text if isinstance(text, Generation) else Generation(text, (1, 2), (-0.1, -0.2), True) for text in said]
        for index, start in enumerate(beginnings):
            if start:
                given = made[index]
                made[index] = Generation(start + given.text, (9, *given.token_ids), given.logprobs, True, forced=1)
        return made

    def forward(self, conversations: Sequence[Conversation]) -> Any:
        raise NotImplementedError

    def token_logprobs(self, conversations: Sequence[Conversation]) -> Any:
        raise NotImplementedError

    def trainable_parameters(self) -> list[Any]:
        return []

    def save_adapter(self, directory: Path) -> str:
        return self.digest

    def load_adapter(self, directory: Path) -> str:
        return self.digest


def question(kind: str = "closeup", **changes: Any) -> Question:
    """A question of either kind."""
    values: dict[str, Any] = {
        "question_id": "q0",
        "clip_id": "c0",
        "split": "train",
        "kind": kind,
        "text": "Which pattern is on the tag?",
        "truth": {"value": "diagonal"} if kind == "closeup" else OPERATION_TRUTH,
        "choices": ("diagonal", "checker") if kind == "closeup" else (),
    }
    return Question(**{**values, **changes})


def call(box: Sequence[int] = (0, 0, 250, 250), *, frame: int = 0, ok: bool = True, **changes: Any) -> CallRecord:
    """An executed ZOOM_IN."""
    values: dict[str, Any] = {
        "name": "ZOOM_IN",
        "arguments": {"frame": frame, "box": list(box)},
        "thought": "",
        "ok": ok,
        "error": "" if ok else "error crop_too_small: …",
        "image": np.zeros((8, 8, 3), np.uint8) if ok else None,
    }
    return CallRecord(**{**values, **changes})


def episode(answer: dict[str, Any] | None, calls: Sequence[CallRecord] = (), **changes: Any) -> Episode:
    """A finished episode."""
    spoken = len(calls) + (answer is not None)
    values: dict[str, Any] = {
        "question": question(),
        "messages": (Message("user", "?"),),
        "generations": tuple(Generation("x", (1,), (-0.5,), True) for _ in range(spoken)),
        "well_formed": (True,) * spoken,
        "calls": tuple(calls),
        "answer": answer,
        "truncated": answer is None,
        "forced": False,
    }
    return Episode(**{**values, **changes})


@pytest.fixture
def make() -> Any:
    """The builders above by name: `make.question(…)`, `make.call(…)`, `make.episode(…)`, `make.policy(say)`."""

    class Make:
        pass

    made = Make()
    made.question, made.call, made.episode, made.policy = question, call, episode, ScriptedPolicy  # type: ignore[attr-defined]
    return made

"""The one interface behind which every policy stands: native Qwen2.5-VL, prefix, prefix with TRM.

Notation: B conversations in a batch, L tokens, V vocabulary.
A conversation is a tuple of messages; the policy's own messages have role `assistant`. Which of the assistant's tokens
are trained on is said per message by `learn`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        text: What is said; for the assistant exactly the text to be produced, without end-of-turn token.
        images: uint8 RGB arrays (height, width, 3), shown before the text.
        image_times_s: Time of each image in seconds (a timestamp token precedes the image), empty for tool images.
        learn: Assistant only: whether the loss covers this message.
        token_ids: Assistant only: the tokens that were sampled (`Generation.token_ids`); they are then used as they
            are instead of tokenizing `text` again, so that reinforcement scores exactly what was sampled.
        forced: How many of `token_ids`, from the first on, were put into the policy's mouth; never learned.
    """

    role: Literal["system", "user", "assistant", "tool"]
    text: str = ""
    images: tuple[np.ndarray, ...] = field(default=(), repr=False)
    image_times_s: tuple[float, ...] = ()
    learn: bool = True
    token_ids: tuple[int, ...] | None = None
    forced: int = 0


Conversation = tuple[Message, ...]


@dataclass(frozen=True)
class Generation:
    """One sampled continuation (the next assistant message)."""

    text: str
    token_ids: tuple[int, ...]
    """The sampled tokens, end-of-turn token included where it was sampled; before them the forced ones."""
    logprobs: tuple[float, ...]
    """log p of each sampled token under the policy at temperature 1."""
    finished: bool
    """False where the token limit cut it."""
    forced: int = 0
    """How many of `token_ids` are the forced beginning."""


class Forward(NamedTuple):
    """Logits where the loss is."""

    logits: torch.Tensor
    """(N, V) float32, -inf at tokens that may not be produced."""
    where: torch.Tensor
    """bool (B, L - 1) with N True entries, row by row."""
    targets: torch.Tensor
    """int64 (N,): the token that follows."""


class Policy(ABC):
    """A vision-language policy; not thread-safe: one caller at a time."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """sha256 over base and adapter weights in use; changes whenever an adapter is swapped or trained."""

    @abstractmethod
    def generate(
        self,
        conversations: Sequence[Conversation],
        *,
        temperature: float = 0.0,
        max_new_tokens: int = 48,
        seed: int = 0,
        beginnings: Sequence[str] = (),
    ) -> list[Generation]:
        """The next assistant message of each conversation; greedy where temperature is 0.

        `beginnings`, one a conversation where given, are put into the policy's mouth: it continues them.
        """

    @abstractmethod
    def forward(self, conversations: Sequence[Conversation]) -> Forward:
        """Logits at the learned tokens of whole conversations, differentiable; rows padded on the right."""

    @abstractmethod
    def token_logprobs(self, conversations: Sequence[Conversation]) -> tuple[torch.Tensor, torch.Tensor]:
        """(logprobs, mask), both (B, L-1), differentiable: log p(token t+1 | tokens..t), and 1.0 where it is learned.

        Where the mask is 0 the log-probability is not computed and reads 0. Rows are padded on the right.
        """

    def score(self, conversation: Conversation, candidates: Sequence[str]) -> list[float]:
        """log p of each text as the next assistant message, its end of turn included; no gradient.

        The conversation is computed once where the policy can share it among the candidates.
        """
        import torch

        if not candidates:
            return []
        asked = tuple(replace(message, learn=False) for message in conversation)
        with torch.no_grad():
            logprobs, mask = self.token_logprobs([(*asked, Message("assistant", text)) for text in candidates])
        return (logprobs * mask).sum(1).tolist()

    @abstractmethod
    def trainable_parameters(self) -> list[torch.nn.Parameter]:
        """What an optimiser updates now: the adapter's parameters, or all of them in full-parameter training."""

    @abstractmethod
    def save_adapter(self, directory: Path) -> str:
        """Write the adapter (safetensors and configuration) and return its digest."""

    @abstractmethod
    def load_adapter(self, directory: Path) -> str:
        """Replace the adapter in place and return its digest; the old one stays in use if this raises."""

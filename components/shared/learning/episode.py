"""The multi-turn environment: the policy speaks, its calls are executed on pixels, the results are shown to it.

Role: `run_episodes` is what reinforcement, evaluation and the learning service share. Each turn all open episodes are
generated in one batch. A message that parses as a call is executed by the operations registry on the clip's source
frames and answered with a `tool` message that carries the returned image; anything else ends the episode, with an
answer where the message parses as one. At the turn limit the episode ends without an answer.

Guarantees: an episode's messages are exactly what the policy saw and wrote, in order, so that they can be scored
again; a forced opening is marked as such and never learned. Operation failures are shown to the policy as text and
recorded, never raised. The same seed, tasks and policy give the same episodes.
Not guaranteed: that a batch of another size samples the same texts. There is no training here, and no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from components.shared.operations import Registry
from components.shared.policy.answers import parse_reply
from components.shared.policy.interface import Conversation, Generation, Message, Policy
from components.shared.policy.prompts import conversation_for, tool_message
from components.shared.samples.clip import Clip
from components.shared.samples.trajectory import Call, Question, ToolResult

TURN_SEED_STRIDE = 7_919
"""Added to the seed each turn, so that equal prefixes in later turns do not repeat the first turn's draws."""


class SourceFrames(Sequence[np.ndarray]):
    """A clip's chosen frames at source resolution, decoded one by one when touched: uint8 RGB (height, width, 3)."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip

    def __len__(self) -> int:
        return len(self._clip.source_jpegs)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        return self._clip.source_frame(range(len(self))[index])  # range: IndexError past the end


@dataclass(frozen=True)
class Task:
    """One episode to run.

    Attributes:
        question: What is asked; its truth is never shown to the policy.
        conversation: What the policy sees first (system, user with the clip's view frames and the question).
        source_frames: The frames operations work on, lazily decoded (`SourceFrames`).
        labels: Label names an answer may use; empty accepts any.
        opening: Beginning of the policy's first message, put into its mouth: how a group that never looks is asked to.
            Its tokens are not learned; how the message goes on, and the rest of the episode, is the policy's own.
    """

    question: Question
    conversation: Conversation
    source_frames: Sequence[np.ndarray] = field(repr=False)
    labels: tuple[str, ...] = ()
    opening: str = ""


def task_for(question: Question, clip: Clip, labels: Sequence[str]) -> Task:
    """A question about a clip; the clip's frames stay encoded until they are looked at."""
    conversation = conversation_for(question, clip.view_frames, clip.meta.frame_times_s)
    return Task(question, conversation, SourceFrames(clip), tuple(labels))


@dataclass(frozen=True)
class CallRecord:
    """One executed call."""

    name: str
    arguments: dict[str, Any]
    thought: str
    ok: bool
    error: str = ""
    """Why it failed, in the words the policy read."""
    image: np.ndarray | None = field(default=None, repr=False, compare=False)
    forced: bool = False


@dataclass(frozen=True)
class Episode:
    """One finished episode.

    Attributes:
        question: What was asked.
        messages: The whole conversation, tool messages included; an assistant message with `learn` False was cut by the
            token limit (its end was never the policy's choice).
        generations: What the policy sampled, one an assistant message.
        well_formed: For each generation, whether it is a strict call or a strict answer.
        calls: Executed calls in order, forced ones included.
        answer: The parsed final answer, None where there is none.
        truncated: Ended by the turn limit or cut by the token limit, not by an answer.
        forced: Began with a forced opening.
    """

    question: Question
    messages: Conversation = field(repr=False)
    generations: tuple[Generation, ...] = field(repr=False)
    well_formed: tuple[bool, ...]
    calls: tuple[CallRecord, ...]
    answer: dict[str, Any] | None
    truncated: bool
    forced: bool

    @property
    def num_tokens(self) -> int:
        """Number of tokens the policy sampled."""
        return sum(len(generation.logprobs) for generation in self.generations)

    @property
    def last_call_failed(self) -> bool:
        """Whether the last executed operation failed."""
        return bool(self.calls) and not self.calls[-1].ok


class _Running:
    """An episode under way."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.messages: list[Message] = list(task.conversation)
        self.generations: list[Generation] = []
        self.well_formed: list[bool] = []
        self.calls: list[CallRecord] = []
        self.answer: dict[str, Any] | None = None
        self.done = self.truncated = False

    def hear(self, generation: Generation, registry: Registry) -> None:
        """Take the policy's next message: execute a call, or end."""
        self.generations.append(generation)
        self.messages.append(
            Message(
                "assistant",
                generation.text,
                learn=generation.finished,
                token_ids=generation.token_ids,
                forced=generation.forced,
            )
        )
        question = self.task.question
        reply = parse_reply(generation.text, labels=self.task.labels, choices=question.choices, kind=question.kind)
        self.well_formed.append(generation.finished and reply.how == "strict")
        if generation.finished and reply.call is not None:
            self._execute(reply.call, reply.thought, registry, forced=generation.forced > 0)
            return
        self.done, self.truncated = True, not generation.finished
        self.answer = reply.answer if generation.finished else None

    def _execute(self, call: Call, thought: str, registry: Registry, *, forced: bool) -> None:
        result = registry.execute(call.name, call.arguments, self.task.source_frames)
        error = "" if result.ok else result.text
        self.calls.append(CallRecord(call.name, call.arguments, thought, result.ok, error, result.image, forced))
        self.messages.append(tool_message(ToolResult(ok=result.ok, text=result.text), result.image))

    def episode(self) -> Episode:
        return Episode(
            question=self.task.question,
            messages=tuple(self.messages),
            generations=tuple(self.generations),
            well_formed=tuple(self.well_formed),
            calls=tuple(self.calls),
            answer=self.answer,
            truncated=self.truncated,
            forced=bool(self.task.opening),
        )


def run_episodes(
    policy: Policy,
    tasks: Sequence[Task],
    registry: Registry,
    *,
    temperature: float,
    max_turns: int,
    max_new_tokens: int,
    seed: int,
    batch_size: int = 128,
) -> list[Episode]:
    """Run every task to its end, a batch of episodes a turn.

    Args:
        policy: Generates the next assistant message.
        tasks: One an episode; repeat a task for a group of rollouts.
        registry: Executes calls.
        temperature: 0 is greedy.
        max_turns: Messages the policy may write; a call in the last one is executed, but nothing follows it.
        max_new_tokens: Tokens a message may have.
        seed: Of the sampling; turn t uses seed + 7919 t.
        batch_size: Episodes generated at once; bounds memory.

    Returns:
        One episode a task, in order.
    """
    running = [_Running(task) for task in tasks]
    for turn in range(max_turns):
        waiting = [item for item in running if not item.done]
        for start in range(0, len(waiting), batch_size):
            batch = waiting[start : start + batch_size]
            asked = any(item.task.opening for item in batch) and turn == 0
            generations = policy.generate(
                [tuple(item.messages) for item in batch],
                temperature=temperature,
                max_new_tokens=max_new_tokens,
                seed=(seed + TURN_SEED_STRIDE * turn + start) % 2**31,
                **({"beginnings": [item.task.opening for item in batch]} if asked else {}),
            )
            for item, generation in zip(batch, generations, strict=True):
                item.hear(generation, registry)
    for item in running:
        item.truncated |= not item.done
    return [item.episode() for item in running]

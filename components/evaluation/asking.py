"""Puts the questions to a policy: greedy and sampled, batched, with what each answer took."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from components.evaluation.config import EvaluationConfig
from components.evaluation.windows import Said, Window, read_answer
from components.shared.learning.episode import Episode, run_episodes, task_for
from components.shared.learning.looking import saw_evidence
from components.shared.operations import Registry
from components.shared.policy.interface import Policy
from components.shared.samples import Clip, Question


def ask(
    policy: Policy,
    pairs: Sequence[tuple[Question, Clip]],
    registry: Registry,
    config: EvaluationConfig,
    labels: Sequence[str],
    *,
    temperature: float,
    seed: int,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Said]:
    """Answers in order; temperature 0 is greedy."""
    said: list[Said] = []
    for start in range(0, len(pairs), config.batch_size):
        batch = pairs[start : start + config.batch_size]
        episodes = run_episodes(
            policy,
            [task_for(question, clip, labels) for question, clip in batch],
            registry,
            temperature=temperature,
            max_turns=config.max_turns,
            max_new_tokens=config.max_new_tokens,
            seed=(seed + start) % 2**31,
            batch_size=config.batch_size,
        )
        said += [
            heard(episode, clip.meta.duration_s, labels) for episode, (_, clip) in zip(episodes, batch, strict=True)
        ]
        advance(len(batch))
    return said


def heard(episode: Episode, duration_s: float, labels: Sequence[str]) -> Said:
    """What an episode came to."""
    last = episode.generations[-1] if episode.generations else None
    value = (episode.answer or {}).get("value")
    return Said(
        answer=read_answer(episode.answer, labels, duration_s),
        text=last.text if last else "",
        confidence=math.exp(min(0.0, sum(last.logprobs))) if last else 0.0,
        calls=len(episode.calls),
        failed=any(not call.ok for call in episode.calls),
        looked=saw_evidence(episode),
        value=value if isinstance(value, str) else None,
    )


def latency(
    policy: Policy, windows: Sequence[Window], registry: Registry, config: EvaluationConfig, labels: Sequence[str]
) -> list[float]:
    """Seconds an answer takes alone, on windows spread over the test."""
    count = min(config.num_latency, len(windows))
    taken = []
    for index in np.linspace(0, len(windows) - 1, count).astype(int) if count else []:
        window = windows[index]
        started = time.perf_counter()
        ask(policy, [(window.question, window.clip)], registry, config, labels, temperature=0.0, seed=config.seed)
        taken.append(time.perf_counter() - started)
    return taken

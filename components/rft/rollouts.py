"""The rollouts of an update: each process asks its share of the questions, and every process sees what all got.

Rewards, running means and dropped groups are those of the whole batch, so every rank computes them from all episodes;
what a policy saw (frames, crops) stays with the rank that learns from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from components.rft.config import RftConfig
from components.shared.learning.episode import Episode, Task, run_episodes
from components.shared.learning.group import Group
from components.shared.learning.rewards.curiosity import operation_rate
from components.shared.learning.rewards.scored import RolloutBatch
from components.shared.operations import Registry
from components.shared.policy.interface import Policy

ZOOM = "ZOOM_IN"
LOOK = '{"name": "ZOOM_IN", "arguments": {"frame": '
"""How a group that never looks is asked to: the policy goes on from here, which frame and where is its own choice."""


def own_seed(seed: int, rank: int) -> int:
    """A seed of this rank's own: two ranks' first rollouts must not be drawn alike. Rank 0 keeps the one given."""
    return int(np.random.default_rng([seed, rank]).integers(2**31)) if rank else seed


def roll_out(
    policy: Policy, tasks: Sequence[Task], registry: Registry, config: RftConfig, *, seed: int
) -> RolloutBatch:
    """A group of rollouts a task, plus one forced look for each close-up group that never looked."""
    groups = [group for group in range(len(tasks)) for _ in range(config.group_size)]
    limits: dict[str, Any] = {
        "temperature": config.temperature,
        "max_turns": config.max_turns,
        "max_new_tokens": config.max_new_tokens,
    }
    episodes = run_episodes(policy, [tasks[group] for group in groups], registry, seed=seed, **limits)
    if config.force_operations and ZOOM in registry.names():
        idle = [group for group in range(len(tasks)) if never_looked(tasks[group], group, groups, episodes)]
        forced = [replace(tasks[group], opening=LOOK) for group in idle]
        if forced:
            episodes += run_episodes(policy, forced, registry, seed=(seed + 1) % 2**31, **limits)
            groups += idle
    return RolloutBatch(episodes, groups)


def never_looked(task: Task, group: int, groups: Sequence[int], episodes: Sequence[Episode]) -> bool:
    """Whether none of a close-up group's rollouts used an operation."""
    members = [episode for episode, of in zip(episodes, groups) if of == group]
    return task.question.kind == "closeup" and operation_rate(members) == 0.0


def everyones(own: RolloutBatch, num_tasks: int, group: Group, *, crops: bool) -> tuple[RolloutBatch, list[int]]:
    """(the rollouts of all ranks in the order that one process would have, which of them are this rank's, in order).

    Args:
        own: This rank's rollouts.
        num_tasks: This rank's questions, every `size`-th of the step's.
        group: The processes.
        crops: Whether the images that operations returned are sent along.
    """
    if group.size == 1:
        return own, list(range(len(own.episodes)))
    by_task: list[list[Episode]] = [[] for _ in range(num_tasks)]
    for episode, task in zip(own.episodes, own.groups, strict=True):
        by_task[task].append(bare(episode, crops=crops))
    everywhere = group.gather(by_task)
    found = [
        (number, episode)
        for forced in (False, True)
        for number, episodes in enumerate(everywhere)
        for episode in episodes
        if episode.forced is forced
    ]
    mine = [index for index, (number, _) in enumerate(found) if number % group.size == group.rank]
    return RolloutBatch([episode for _, episode in found], [number for number, _ in found]), mine


def bare(episode: Episode, *, crops: bool) -> Episode:
    """An episode as it travels between ranks: without what the policy saw, and crops only where they are asked for."""
    calls = episode.calls if crops else tuple(replace(call, image=None) for call in episode.calls)
    return replace(episode, messages=(), calls=calls)

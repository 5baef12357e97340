"""Accuracy on people never trained on, before and after: greedy and sampled, on both kinds of question.

Sampled accuracy matters as much as greedy: the service votes over samples, and near P(look) = 1/2 greedy accuracy
flips. Differences come with a paired bootstrap interval over questions (the same questions before and after).
Not guaranteed: an interval that knows of sessions; evaluation clusters by session, this is the step's own check.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.rft.config import RftConfig
from components.rft.rollouts import bare, own_seed
from components.shared.learning.episode import Episode, Task, run_episodes
from components.shared.learning.group import Group
from components.shared.learning.looking import saw_evidence
from components.shared.learning.metrics import temporal_iou
from components.shared.learning.rewards.curiosity import operation_rate
from components.shared.learning.rewards.task import is_correct, segment_of
from components.shared.operations import Registry
from components.shared.policy.interface import Policy

KINDS = ("closeup", "operation")
MODES = ("greedy", "sampled")
ROUNDING = 1e-9
"""Shares are quotients of small numbers: .75 - .73 is .020000000000000018, no larger a fall than .02."""


@dataclass(frozen=True)
class Validation:
    """Figures of one policy on the validation questions.

    Attributes:
        figures: `<mode>_<kind>_<figure>` -> value.
        right: `<mode>_<kind>` -> share of right answers to each question, in the questions' order.
    """

    figures: dict[str, float]
    right: dict[str, list[float]]

    def kinds(self) -> list[str]:
        """Kinds of question there are."""
        return [kind for kind in KINDS if f"greedy_{kind}" in self.right]


def validate(
    policy: Policy, tasks: Sequence[Task], registry: Registry, config: RftConfig, group: Group | None = None
) -> Validation:
    """Ask every question once greedily and `validation_samples` times at the training temperature.

    In a group `tasks` are this rank's share; all ranks get the figures of all questions.
    """
    group = group or Group()
    figures: dict[str, float] = {}
    right: dict[str, list[float]] = {}
    for mode in MODES:
        times = 1 if mode == "greedy" else config.validation_samples
        episodes = run_episodes(
            policy,
            [task for task in tasks for _ in range(times)],
            registry,
            temperature=0.0 if mode == "greedy" else config.temperature,
            max_turns=config.max_turns,
            max_new_tokens=config.max_new_tokens,
            seed=own_seed(config.seed, group.rank),
        )
        answers = [bare(episode, crops=False) for episode in episodes]
        by_task = [answers[first : first + times] for first in range(0, len(answers), times)]
        everyones = [episode for found in group.gather(by_task) for episode in found]
        for kind in KINDS:
            asked = [episode for episode in everyones if episode.question.kind == kind]
            if asked:
                hits = np.array([is_correct(episode.question, episode.answer) for episode in asked], np.float64)
                right[f"{mode}_{kind}"] = hits.reshape(-1, times).mean(axis=1).tolist()
                measured = closeup_figures(asked) if kind == "closeup" else operation_figures(asked)
                figures |= {f"{mode}_{kind}_{name}": value for name, value in measured.items()}
    return Validation(figures, right)


def closeup_figures(episodes: Sequence[Episode]) -> dict[str, float]:
    """Accuracy, chance, answers among the choices, rate of looking, share that looked at the evidence."""
    count = len(episodes)
    return {
        "accuracy": sum(is_correct(episode.question, episode.answer) for episode in episodes) / count,
        "chance": sum(1 / max(len(episode.question.choices), 1) for episode in episodes) / count,
        "valid": sum((e.answer or {}).get("value") in e.question.choices for e in episodes) / count,
        "operation_rate": operation_rate(episodes),
        "right_look": sum(saw_evidence(episode) for episode in episodes) / count,
    }


def operation_figures(episodes: Sequence[Episode]) -> dict[str, float]:
    """Operation right, tIoU at least 0.5, next right, rate of looking."""
    count = len(episodes)
    ious = [temporal_iou(segment_of(e.answer), segment_of(e.question.truth)) for e in episodes]
    follows = [
        episode.answer is not None
        and "next_operation" in episode.answer
        and episode.answer["next_operation"] == episode.question.truth.get("next_operation")
        for episode in episodes
    ]
    return {
        "accuracy": sum(is_correct(episode.question, episode.answer) for episode in episodes) / count,
        "tiou_half": sum(iou >= 0.5 for iou in ious) / count,
        "next": sum(follows) / count,
        "operation_rate": operation_rate(episodes),
    }


def paired_difference(
    before: Sequence[float], after: Sequence[float], *, seed: int, num_resamples: int = 2000
) -> tuple[float, float, float]:
    """Mean of after - before over the same questions, with its 95 % bootstrap interval: (mean, low, high)."""
    difference = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    draws = np.random.default_rng(seed).integers(len(difference), size=(num_resamples, len(difference)))
    low, high = np.quantile(difference[draws].mean(axis=1), [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def helped(before: Validation, after: Validation, *, max_operation_drop: float) -> tuple[bool, str]:
    """Whether the reinforced policy is the better one, and why in words.

    It is, where the mean of greedy and sampled accuracy over the kinds of question rises, and greedy accuracy on
    operation questions does not fall by more than `max_operation_drop`.
    """
    kinds = before.kinds()
    if not kinds:
        return False, "there were no validation questions to compare on"
    score = {
        name: float(np.mean([of.figures[f"{mode}_{kind}_accuracy"] for kind in kinds for mode in MODES]))
        for name, of in (("before", before), ("after", after))
    }
    gain = score["after"] - score["before"]
    words = f"mean validation accuracy {score['before']:.3f} -> {score['after']:.3f}"
    if "operation" in kinds:
        drop = before.figures["greedy_operation_accuracy"] - after.figures["greedy_operation_accuracy"]
        if drop > max_operation_drop + ROUNDING:
            return False, f"{words}, but operation accuracy fell by {drop:.3f} (at most {max_operation_drop:g} allowed)"
    return gain > 0, words

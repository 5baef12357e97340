"""Who is kept out of training for the canary set: the labelled clips that ship with the model and judge its updates."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Literal

from components.data_synthesis.clips.config import ClipsConfig
from components.data_synthesis.clips.ranking import rank
from components.shared.work.manifest import Manifest

MIN_PEOPLE_FOR_CANARY = 3


def choose_canary(
    manifest: Manifest, config: ClipsConfig
) -> tuple[tuple[str, ...], Literal["train", "validation", "none"]]:
    """People kept out of training for the canary set: a share of the training people, chosen to cover the labels.

    Their recordings together are no longer than that of as many average people, so that one long recording is not spent
    on it. With fewer than three training people nobody is spared and the validation people serve (their clips then are
    canary and no longer validation); with fewer than two of those there is no canary.
    """
    seconds: dict[str, dict[str, dict[str, float]]] = {"train": {}, "validation": {}}
    lengths_s: dict[str, float] = {}
    for recording in manifest.recordings:
        if recording.split in seconds:
            worked = seconds[recording.split].setdefault(recording.subject, {})
            lengths_s[recording.subject] = lengths_s.get(recording.subject, 0.0) + recording.duration_s
            for segment in recording.segments:
                if segment.label != manifest.null_label:
                    worked[segment.label] = worked.get(segment.label, 0.0) + segment.end_s - segment.start_s
    source: Literal["train", "validation"] = "train"
    if len(seconds["train"]) < MIN_PEOPLE_FOR_CANARY:
        source = "validation"
        if len(seconds["validation"]) < 2:
            return (), "none"
    people = seconds[source]
    wanted = max(1, round(config.canary_share * len(people)))
    chosen: list[str] = []
    gathered: dict[str, float] = {}
    all_s = [lengths_s[subject] for subject in people]
    budget_s = wanted * max(statistics.mean(all_s), statistics.median(all_s)) + 1e-6
    while len(chosen) < wanted:
        left = [subject for subject in people if subject not in chosen]
        fitting = [subject for subject in left if lengths_s[subject] <= budget_s]
        left = fitting or [min(left, key=lambda subject: (lengths_s[subject], rank(config.seed, subject)))]
        best = min(left, key=lambda subject: (-coverage_gain(gathered, people[subject]), rank(config.seed, subject)))
        chosen.append(best)
        budget_s -= lengths_s[best]
        for label, spent in people[best].items():
            gathered[label] = gathered.get(label, 0.0) + spent
    return tuple(chosen), source


def coverage_gain(gathered: Mapping[str, float], added: Mapping[str, float]) -> float:
    """How much better the labels are covered with somebody added: growth of the sum of square roots of seconds.

    A root grows fastest where there is least, so labels still lacking come first, then the scarce ones.
    """
    before = {label: gathered.get(label, 0.0) for label in added}
    return sum(math.sqrt(before[label] + seconds) - math.sqrt(before[label]) for label, seconds in added.items())

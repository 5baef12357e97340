"""All figures of an evaluation as one JSON value: `measured.json`, what report and gate are written from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from components.evaluation.baselines import Baseline, all_baselines
from components.evaluation.candidate import Choice
from components.evaluation.champion import Champion
from components.evaluation.config import EvaluationConfig
from components.evaluation.scores import (
    Timelines,
    WindowScores,
    calibration,
    closeup_right,
    closeup_scores,
    figures,
    macro_f1_of_present,
    plain_figures,
    timelines,
    window_scores,
)
from components.evaluation.windows import Closeup, Said, Window
from components.shared.learning.bootstrap import (
    Interval,
    bootstrap,
    mean_interval,
    paired_difference,
    paired_statistic_difference,
)
from components.shared.learning.metrics import UNPARSED, Answer
from components.shared.work.manifest import Manifest

COMPARED = ("oca", "aa1", "tiou50")


@dataclass(frozen=True)
class Run:
    """What one policy answered.

    Attributes:
        greedy: One a window.
        samples: Sampled answers, each run one a window.
        closeups: One a close-up question.
        closeup_samples: Sampled close-up answers.
        latency_s: Seconds of answers given one by one.
        batch_s: Seconds an answer in batches.
    """

    greedy: list[Said]
    samples: list[list[Said]] = field(default_factory=list)
    closeups: list[Said] = field(default_factory=list)
    closeup_samples: list[list[Said]] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    batch_s: float = 0.0

    @property
    def answers(self) -> list[Answer]:
        """Greedy answers."""
        return [said.answer for said in self.greedy]


@dataclass(frozen=True)
class Measured:
    """The JSON value, and the arrays pictures need."""

    value: dict[str, Any]
    scores: dict[str, WindowScores]
    lines: dict[str, Timelines]
    boundary: np.ndarray


def measure(
    windows: Sequence[Window],
    closeups: Sequence[Closeup],
    runs: Mapping[str, Run],
    manifest: Manifest,
    train: Sequence[Answer],
    choice: Choice,
    champion: Champion | None,
    config: EvaluationConfig,
) -> Measured:
    """Figures of every policy and baseline, paired differences of the candidate to baselines and champion."""
    scored = [w for w in windows if w.scored]
    boundary = np.array([w.meta.has_boundary for w in scored], dtype=bool)
    scores = {name: window_scores(windows, run.answers) for name, run in runs.items()}
    lines = {name: timelines(windows, run.answers, manifest, config) for name, run in runs.items()}
    policies = {
        name: policy_figures(windows, closeups, run, scores[name], lines[name], config) for name, run in runs.items()
    }
    best = choice.name
    predicted = [a for w, a in zip(windows, runs[best].answers, strict=True) if w.scored]
    duration_s = max((w.meta.duration_s for w in scored), default=5.0)
    trivial = all_baselines(
        [w.truth for w in scored],
        boundary,
        duration_s,
        manifest.labels,
        train,
        manifest.transitions,
        predicted,
        config.seed,
    )
    trivial_lines = {
        name: baseline_timeline(name, item, windows, manifest, config) for name, item in trivial.items() if item.answers
    }
    value = {
        "candidate": best,
        "choice": choice.reason,
        "num_windows": len(scored),
        "num_windows_asked": len(windows),
        "num_ambiguous_windows": sum(w.meta.ambiguous for w in windows),
        "num_boundary_windows": int(boundary.sum()),
        "num_sessions": len({w.session for w in scored}),
        "num_closeups": len(closeups),
        "split_by": manifest.split_by,
        "provenance": manifest.provenance,
        "level": config.level,
        "figures": policies[best]["figures"],
        "policies": policies,
        "baselines": baseline_figures(trivial, trivial_lines, scores[best].sessions, config),
        "baseline_details": {name: item.detail for name, item in trivial.items()},
        "differences": differences(scores[best], lines[best], trivial, trivial_lines, config),
        "gains": gains(runs, scores, lines, closeups, config),
        "champion": None if champion is None else versus(champion, windows, runs[best].answers, manifest, config),
    }
    return Measured(value, scores, lines, boundary)


def options(config: EvaluationConfig) -> dict[str, Any]:
    """How intervals are drawn."""
    return {"level": config.level, "num_resamples": config.num_resamples, "seed": config.seed}


def policy_figures(
    windows: Sequence[Window],
    closeups: Sequence[Closeup],
    run: Run,
    scores: WindowScores,
    lines: Timelines,
    config: EvaluationConfig,
) -> dict[str, Any]:
    """One policy's figures."""
    sampled_runs = [window_scores(windows, [said.answer for said in sample]) for sample in run.samples]
    found: dict[str, Any] = {
        "figures": {name: item.as_dict() for name, item in figures(scores, lines, config).items()},
        "plain": plain_figures(scores, lines, [said.answer for said in run.greedy]),
        "operation_rate": float(np.mean([said.calls > 0 for said in run.greedy])) if run.greedy else 0.0,
        "calibration": calibration(windows, run.greedy, run.samples),
        "closeup_greedy": closeup_scores(closeups, [run.closeups] if run.closeups else []),
        "closeup_sampled": closeup_scores(closeups, run.closeup_samples),
        "seconds_an_answer_batched": run.batch_s,
    }
    if sampled_runs:
        mean_of = lambda name: np.mean([item.by_figure[name] for item in sampled_runs], axis=0)
        found["sampled"] = {
            name: mean_interval(mean_of(name), scores.sessions, **options(config)).as_dict()
            for name in (*COMPARED, "valid")
        }
    if run.latency_s:
        found["latency_median_s"] = float(np.median(run.latency_s))
        found["latency_p95_s"] = float(np.quantile(run.latency_s, 0.95))
    return found


def baseline_timeline(
    name: str, baseline: Baseline, windows: Sequence[Window], manifest: Manifest, config: EvaluationConfig
) -> Timelines:
    """A baseline's timelines: its answers in the scored windows, nothing in the others.

    The constant's label is the one with the best timeline F1 in hindsight.
    """
    if name == "constant":
        every = [constant_timeline(windows, label, manifest, config) for label in manifest.labels]
        return max(every, key=lambda item: float(macro_f1_of_present(item.confusions.sum(axis=0))))
    drawn = iter(baseline.answers or [])
    return timelines(windows, [next(drawn) if w.scored else UNPARSED for w in windows], manifest, config)


def constant_timeline(windows: Sequence[Window], label: str, manifest: Manifest, config: EvaluationConfig) -> Timelines:
    """One label all the time."""
    return timelines(windows, [Answer(label, (0.0, w.meta.duration_s), None) for w in windows], manifest, config)


def baseline_figures(
    trivial: Mapping[str, Baseline], lines: Mapping[str, Timelines], sessions: Sequence[str], config: EvaluationConfig
) -> dict[str, dict[str, Any]]:
    """Every baseline's figures with intervals."""
    found: dict[str, dict[str, Any]] = {}
    for name, baseline in trivial.items():
        found[name] = {
            figure: mean_interval(values, sessions, **options(config)).as_dict()
            for figure, values in baseline.scores.items()
        }
        if name in lines:
            found[name]["timeline_f1"] = bootstrap(
                lines[name].confusions, macro_f1_of_present, **options(config)
            ).as_dict()
    return found


def differences(
    scores: WindowScores,
    lines: Timelines,
    trivial: Mapping[str, Baseline],
    trivial_lines: Mapping[str, Timelines],
    config: EvaluationConfig,
) -> dict[str, dict[str, Any]]:
    """Candidate minus baseline, paired, by figure and baseline."""
    found: dict[str, dict[str, Any]] = {name: {} for name in (*COMPARED, "timeline_f1")}
    for name, baseline in trivial.items():
        for figure, values in baseline.scores.items():
            gap = paired_difference(scores.by_figure[figure], values, scores.sessions, **options(config))
            found[figure][name] = gap.as_dict()
    for name, line in trivial_lines.items():
        found["timeline_f1"][name] = timeline_gap(lines, line, config).as_dict()
    return found


def timeline_gap(a: Timelines, b: Timelines, config: EvaluationConfig) -> Interval:
    """Paired difference of timeline macro-F1."""
    return paired_statistic_difference(a.confusions, b.confusions, macro_f1_of_present, **options(config))


def gains(
    runs: Mapping[str, Run],
    scores: Mapping[str, WindowScores],
    lines: Mapping[str, Timelines],
    closeups: Sequence[Closeup],
    config: EvaluationConfig,
) -> dict[str, dict[str, Any]]:
    """Paired differences from stage to stage: base -> sft, sft -> rft."""
    found: dict[str, dict[str, Any]] = {}
    for before, after in (("base", "sft"), ("sft", "rft")):
        if before not in runs or after not in runs:
            continue
        row = {
            figure: paired_difference(
                scores[after].by_figure[figure],
                scores[before].by_figure[figure],
                scores[after].sessions,
                **options(config),
            ).as_dict()
            for figure in COMPARED
        }
        row["timeline_f1"] = timeline_gap(lines[after], lines[before], config).as_dict()
        old, new = runs[before], runs[after]
        for name, pick in (
            ("closeup_greedy", lambda r: [r.closeups]),
            ("closeup_sampled", lambda r: r.closeup_samples),
        ):
            if closeups and all(pick(r) and pick(r)[0] for r in (old, new)):
                gap = closeup_right(closeups, pick(new)) - closeup_right(closeups, pick(old))
                row[name] = mean_interval(gap, [item.session for item in closeups], **options(config)).as_dict()
        found[f"{before}->{after}"] = row
    return found


def versus(
    champion: Champion,
    windows: Sequence[Window],
    answers: Sequence[Answer],
    manifest: Manifest,
    config: EvaluationConfig,
) -> dict[str, Any]:
    """Candidate minus champion over the windows both have answered."""
    shared = [(w, a, c) for w, a, c in zip(windows, answers, champion.answers, strict=True) if c is not None]
    kept = [w for w, _, _ in shared]
    ours, theirs = window_scores(kept, [a for _, a, _ in shared]), window_scores(kept, [c for _, _, c in shared])
    found = {
        figure: paired_difference(
            ours.by_figure[figure], theirs.by_figure[figure], ours.sessions, **options(config)
        ).as_dict()
        for figure in COMPARED
    }
    if len(shared) == len(windows):
        a, c = (
            timelines(kept, said, manifest, config) for said in ([a for _, a, _ in shared], [c for _, _, c in shared])
        )
        found["timeline_f1"] = timeline_gap(a, c, config).as_dict()
    return {"policy": champion.name, "num_shared": sum(w.scored for w in kept), "differences": found}

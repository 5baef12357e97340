"""Figures of one set of answers: windows, timelines, close-ups, calibration; all with intervals over sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.evaluation.config import EvaluationConfig
from components.evaluation.windows import Closeup, Said, Window
from components.shared.learning.bootstrap import Interval, bootstrap, mean_interval
from components.shared.learning.metrics import (
    Answer,
    at_least,
    confusion_matrix,
    expected_calibration_error,
    macro_f1,
    mean,
    next_right,
    num_distinct_segments,
    operation_right,
    overlap,
)
from components.shared.learning.timeline import NO_LABEL, edit_score, fuse, resample_1hz, sampled, segmental_f1
from components.shared.work.manifest import Manifest, Recording

OVERLAPS = (0.10, 0.25, 0.50)


def macro_f1_of_present(confusions: np.ndarray) -> np.ndarray:
    """Macro-F1 over the labels that occur: the timeline's figure (a small test set may lack some)."""
    return macro_f1(confusions, present_only=True)


@dataclass(frozen=True)
class WindowScores:
    """Scores a scored window (NaN where it has no say), and which session it is of."""

    by_figure: dict[str, np.ndarray]
    sessions: list[str]


@dataclass(frozen=True)
class Timelines:
    """Timelines of the test recordings.

    Attributes:
        names: Recording ids.
        truth: True label at every 1/hz seconds of each recording, NO_LABEL where it is not scored.
        given: Answered label at the same times, NO_LABEL where nothing was said.
        hz: Labels a second.
        confusions: Whole seconds [truth][given] a session: (S, K, K + 1).
    """

    names: list[str]
    truth: list[np.ndarray]
    given: list[np.ndarray]
    hz: int
    confusions: np.ndarray

    @property
    def scored(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(truth, given) of each recording without the times whose truth is not scored."""
        return [(t[t != NO_LABEL], g[t != NO_LABEL]) for t, g in zip(self.truth, self.given, strict=True)]


def window_scores(windows: Sequence[Window], answers: Sequence[Answer]) -> WindowScores:
    """OCA, AA@1, tIoU and tIoU@0.5 a scored window."""
    rows = [(w, a) for w, a in zip(windows, answers, strict=True) if w.scored]
    truth, given = [w.truth for w, _ in rows], [a for _, a in rows]
    iou = overlap(truth, given, [w.meta.has_boundary for w, _ in rows])
    figures = {
        "oca": operation_right(truth, given),
        "aa1": next_right(truth, given),
        "tiou": iou,
        "tiou50": at_least(iou, 0.5),
        "valid": np.array([float(a.valid) for a in given]),
    }
    return WindowScores(figures, [w.session for w, _ in rows])


def timelines(
    windows: Sequence[Window], answers: Sequence[Answer], manifest: Manifest, config: EvaluationConfig
) -> Timelines:
    """Fuse window answers into a timeline for every test recording that has windows."""
    place = {label: number for number, label in enumerate(manifest.labels)}
    of: dict[str, list[tuple[int, float, float, int | None, float]]] = {}
    for window, answer in zip(windows, answers, strict=True):
        votes = of.setdefault(window.meta.recording_id, [])
        if answer.valid and answer.operation in place and answer.segment_s is not None:
            start, following = window.meta.start_s, place.get(answer.next_operation or "")
            segment = (start + answer.segment_s[0], start + answer.segment_s[1])
            votes.append((place[answer.operation], *segment, following, start + window.meta.duration_s))
    names, truths, givens = [], [], []
    by_session: dict[str, np.ndarray] = {}
    for recording in manifest.recordings:
        if recording.recording_id not in of:
            continue
        truth, given = at_rate(recording, of[recording.recording_id], place, config.timeline_hz)
        names.append(recording.recording_id)
        truths.append(truth)
        givens.append(given)
        unix_ms = (np.arange(len(truth)) * 1000 / config.timeline_hz).astype(int)
        truth_1hz, given_1hz = (resample_1hz(unix_ms, labels)[1] for labels in (truth, given))
        kept = truth_1hz != NO_LABEL
        matrix = confusion_matrix(truth_1hz[kept], given_1hz[kept], len(place))
        session = f"{recording.subject}/{recording.session}"
        by_session[session] = by_session.get(session, 0) + matrix
    confusions = np.stack(list(by_session.values())) if by_session else np.zeros((0, len(place), len(place) + 1))
    return Timelines(names, truths, givens, config.timeline_hz, confusions)


def at_rate(
    recording: Recording, votes: list[tuple[int, float, float, int | None, float]], place: dict[str, int], hz: float
) -> tuple[np.ndarray, np.ndarray]:
    """(truth, answer) of a recording at every 1/hz seconds; NO_LABEL where the truth is not scored."""
    times = np.arange(max(1, int(recording.duration_s * hz))) / hz
    segments = [(place[s.label], s.start_s, s.end_s) for s in recording.segments if s.label in place]
    return sampled(segments, times), fuse(votes, times, len(place))


def figures(scores: WindowScores, lines: Timelines, config: EvaluationConfig) -> dict[str, Interval]:
    """Every interval figure of one set of answers."""
    options = {"level": config.level, "num_resamples": config.num_resamples, "seed": config.seed}
    found = {name: mean_interval(values, scores.sessions, **options) for name, values in scores.by_figure.items()}
    found["timeline_f1"] = bootstrap(lines.confusions, macro_f1_of_present, **options)  # type: ignore[arg-type]
    return found


def plain_figures(scores: WindowScores, lines: Timelines, answers: Sequence[Answer]) -> dict[str, float]:
    """Figures without an interval."""
    found: dict[str, float] = {"num_distinct_segments": float(num_distinct_segments(answers))}
    pairs = lines.scored
    if pairs:
        found["edit"] = float(np.mean([edit_score(truth, given) for truth, given in pairs]))
        found |= {f"f1_at_{round(100 * k)}": segmental_f1(pairs, k) for k in OVERLAPS}
    return found


def calibration(
    windows: Sequence[Window], greedy: Sequence[Said], samples: Sequence[Sequence[Said]]
) -> dict[str, object]:
    """ECE of the whole answer by its probability, and of the operation by the samples' vote share.

    The whole answer is right where operation, tIoU >= 0.5 and next operation are.
    """
    rows = [(w, s) for w, s in zip(windows, greedy, strict=True) if w.scored]
    truth, given = [w.truth for w, _ in rows], [s.answer for _, s in rows]
    follows = next_right(truth, given)
    whole = (
        operation_right(truth, given)
        * (overlap(truth, given, [True] * len(rows)) >= 0.5)
        * np.where(np.isnan(follows), 1.0, follows)
    )
    error, bins = expected_calibration_error(np.array([s.confidence for _, s in rows]), whole)
    found: dict[str, object] = {"ece_answer": error, "bins_answer": bins, "whole_answer_right": mean(whole)}
    if samples:
        votes = [
            vote([run[i].answer.operation for run in (greedy, *samples)]) for i, w in enumerate(windows) if w.scored
        ]
        hit = np.array([float(v == t.operation) for (v, _), t in zip(votes, truth, strict=True)])
        error, bins = expected_calibration_error(np.array([share for _, share in votes]), hit)
        found |= {"ece_vote": error, "bins_vote": bins, "oca_vote": mean(hit)}
    return found


def vote(operations: Sequence[str | None]) -> tuple[str | None, float]:
    """(most frequent operation, its share of all answers); abstentions are no votes."""
    named = [operation for operation in operations if operation is not None]
    if not named:
        return None, 0.0
    best = max(sorted(set(named)), key=named.count)
    return best, named.count(best) / len(operations)


def closeup_scores(closeups: Sequence[Closeup], runs: Sequence[Sequence[Said]]) -> dict[str, float]:
    """Accuracy (mean over runs), chance, rate of looking, share that looked at the evidence."""
    if not closeups or not runs:
        return {}
    over = lambda pick: float(np.mean([[float(pick(s)) for s in run] for run in runs]))
    return {
        "accuracy": float(closeup_right(closeups, runs).mean()),
        "chance": float(np.mean([1 / max(1, len(item.question.choices)) for item in closeups])),
        "operation_rate": over(lambda s: s.calls > 0),
        "right_look": over(lambda s: s.looked),
        "failed_calls": over(lambda s: s.failed),
        "num_questions": float(len(closeups)),
    }


def closeup_right(closeups: Sequence[Closeup], runs: Sequence[Sequence[Said]]) -> np.ndarray:
    """(Q,) share of runs whose close-up answer is right."""
    truth = [item.question.truth.get("value") for item in closeups]
    return np.mean([[float(s.value == t) for t, s in zip(truth, run, strict=True)] for run in runs], axis=0)

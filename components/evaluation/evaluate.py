"""The verb `evaluate`: base, SFT and RFT answer the test people's questions; figures, pictures and the gate's decision.

Writes into the evaluation artifact:

    report.md, report.html      for people; the page carries its pictures
    metrics.json                scalars by name, then everything measured
    measured.json               what the gate decides on
    predictions.jsonl           one line a window: truth, and each policy's answer with its raw text
    gate.json                   decision, candidate, reasons, checks
    *.png

Guarantees: nothing is shown or scored that a policy did not answer; an unreadable answer counts as wrong; the same
section and inputs give the same figures (latency apart). The choice between SFT and RFT was made on validation people.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from components.evaluation import pictures as draw
from components.evaluation.asking import ask, latency
from components.evaluation.candidate import POLICIES, choose
from components.evaluation.champion import GATE, PREDICTIONS, as_json, read_champion
from components.evaluation.config import EvaluationConfig
from components.evaluation.gate import MEASURED, judge
from components.evaluation.measure import Measured, Run, measure
from components.evaluation.report import confusion_of, flat, markdown, page
from components.evaluation.windows import Closeup, Window, read_windows, train_answers
from components.shared.learning.metrics import confusion_matrix
from components.shared.operations import Registry, default_registry
from components.shared.policy.interface import Policy
from components.shared.runtime.artifacts import atomic_write, write_json
from components.shared.runtime.memory import enough_device_memory
from components.shared.runtime.progress import Progress
from components.shared.runtime.report import Report
from components.shared.runtime.reproducibility import seed_everything
from components.shared.runtime.tracking import champion_evaluation
from components.shared.work.manifest import Manifest, load_manifest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationInputs:
    """What `evaluate` reads."""

    clips: Path
    trajectories: Path
    recordings: Path
    base: Path
    sft: Path
    rft: Path
    champion: Path | None = None
    """The reigning champion's evaluation artifact, None where there is no champion."""


@dataclass(frozen=True)
class EvaluationOutputs:
    """What `evaluate` writes."""

    evaluation: Path


@enough_device_memory("Lower evaluation.batch_size, or set evaluation.quantisation to nf4.")
def evaluate(config: EvaluationConfig, inputs: EvaluationInputs, outputs: EvaluationOutputs) -> Report:
    """Judge the three policies on people never seen.

    Raises:
        InputError: no test questions.
        ArtifactError: a policy or the champion's artifact cannot be read.
    """
    manifest = load_manifest(inputs.recordings)
    windows, closeups = read_windows(
        inputs.clips, inputs.trajectories, manifest, limit=config.max_windows, max_closeups=config.max_closeups
    )
    champion = read_champion(inputs.champion, windows)
    choice = choose(inputs.rft)
    log.info(
        "%d windows (%d scored), %d close-ups; %s",
        len(windows),
        sum(w.scored for w in windows),
        len(closeups),
        choice.reason,
    )
    runs = answer_all(config, inputs, windows, closeups, choice.name)
    measured = measure(windows, closeups, runs, manifest, train_answers(inputs.trajectories), choice, champion, config)
    gate = judge(measured.value, config.gate)
    log.info("gate: %s; %s", gate["decision"], "; ".join(gate["reasons"]))
    return written(config, outputs.evaluation, manifest, windows, runs, measured, gate)


def evaluate_beside_champion(
    promotion: Mapping[str, Any], config: EvaluationConfig, inputs: EvaluationInputs, outputs: EvaluationOutputs
) -> Report:
    """`evaluate` beside the champion that the registry names, where there is one.

    Args:
        promotion: The promotion section: under which name and alias the champion is found.
        config: The section.
        inputs: Everything but the champion.
        outputs: What `evaluate` writes.
    """
    with TemporaryDirectory() as folder:
        champion = champion_evaluation(promotion, inputs.recordings, Path(folder))
        return evaluate(config, replace(inputs, champion=champion), outputs)


def answer_all(
    config: EvaluationConfig,
    inputs: EvaluationInputs,
    windows: Sequence[Window],
    closeups: Sequence[Closeup],
    candidate: str,
) -> dict[str, Run]:
    """Every policy's answers; one base in memory, adapters swapped on it."""
    from components.shared.policy.load import load_policy

    seed_everything(config.seed, deterministic=config.deterministic)
    per_run = len(windows) + len(closeups)
    bar = Progress(per_run * (len(POLICIES) + 2 * config.num_samples), "answering", unit="questions")
    policy = load_policy(inputs.base, device=config.device, quantisation=config.quantisation)
    labels = policy.description.labels
    registry = default_registry(config.operations)
    runs: dict[str, Run] = {}
    heard: dict[str, str] = {}
    for name, adapter in zip(POLICIES, (None, inputs.sft, inputs.rft), strict=True):
        if adapter is not None:
            policy.load_adapter(adapter)
        same = heard.setdefault(policy.digest, name)
        if same != name:
            log.info("%s has the weights of %s, so its answers are the same", name, same)
            runs[name] = replace(runs[same], latency_s=[])
            bar.advance(per_run * (1 + config.num_samples), note=name)
        else:
            runs[name] = answer(policy, name, windows, closeups, registry, config, labels, bar)
        if name == candidate:
            runs[name] = replace(runs[name], latency_s=latency(policy, windows, registry, config, labels))
    return runs


def answer(
    policy: Policy,
    name: str,
    windows: Sequence[Window],
    closeups: Sequence[Closeup],
    registry: Registry,
    config: EvaluationConfig,
    labels: Sequence[str],
    bar: Progress,
) -> Run:
    """One policy's answers: greedy, and sampled for what training made."""
    operation = [(window.question, window.clip) for window in windows]
    closeup = [(item.question, item.clip) for item in closeups]
    say = lambda pairs, temperature, seed: ask(
        policy, pairs, registry, config, labels, temperature=temperature, seed=seed,
        advance=lambda count: bar.advance(count, note=name),
    )  # fmt: skip
    started = time.perf_counter()
    greedy = say(operation, 0.0, config.seed)
    batch_s = (time.perf_counter() - started) / max(1, len(operation))
    rounds = range(0 if name == "base" else config.num_samples)
    return Run(
        greedy=greedy,
        samples=[say(operation, config.temperature, config.seed + 1009 * (i + 1)) for i in rounds],
        closeups=say(closeup, 0.0, config.seed),
        closeup_samples=[say(closeup, config.temperature, config.seed + 1009 * (i + 1)) for i in rounds]
        if closeup
        else [],
        batch_s=batch_s,
    )


def written(
    config: EvaluationConfig,
    target: Path,
    manifest: Manifest,
    windows: Sequence[Window],
    runs: Mapping[str, Run],
    measured: Measured,
    gate: dict[str, Any],
) -> Report:
    """Write the artifact and put the step's report together."""
    value, best = measured.value, gate["candidate"]
    matrix = operation_confusion(manifest.labels, windows, runs[best])
    shown = draw_all(config, target, manifest, windows, runs[best], measured, matrix)
    scalars = flat(value, gate)
    atomic_write(target / PREDICTIONS, "".join(prediction_line(i, w, runs) for i, w in enumerate(windows)))
    write_json(target / MEASURED, value)
    write_json(target / GATE, gate)
    write_json(target / "metrics.json", {**scalars, "all": value})
    text = markdown(value, gate)
    atomic_write(target / "report.md", text)
    atomic_write(target / "report.html", page(value, gate, shown))
    return Report(
        metrics=scalars,
        provenance=manifest.provenance,
        markdown=text,
        pictures=shown,
        confusion=confusion_of(manifest.labels, matrix),
        facts={"gate": gate, "candidate": best, "split_by": manifest.split_by},
    )


def operation_confusion(labels: Sequence[str], windows: Sequence[Window], run: Run) -> np.ndarray:
    """Counts [truth][answer] of scored windows; the last column is unreadable answers: (K, K + 1)."""
    place = {label: number for number, label in enumerate(labels)}
    rows = [(w.truth.operation, s.answer.operation) for w, s in zip(windows, run.greedy, strict=True) if w.scored]
    truth = np.array([place[t or ""] for t, _ in rows], dtype=int)
    given = np.array([place.get(g or "", -1) for _, g in rows], dtype=int)
    return confusion_matrix(truth, given, len(labels))


def draw_all(
    config: EvaluationConfig,
    target: Path,
    manifest: Manifest,
    windows: Sequence[Window],
    run: Run,
    measured: Measured,
    matrix: np.ndarray,
) -> dict[str, Path]:
    """Draw the pictures there is something for, by caption."""
    shown = {}
    draw.bars(measured.value, target / "baselines.png")
    shown["Figures with their intervals"] = target / "baselines.png"
    draw.confusion(manifest.labels, matrix, target / "confusion.png")
    shown["Operations: true against answered (candidate)"] = target / "confusion.png"
    if draw.strips(measured.lines, manifest.labels, config.num_strips, target / "timelines.png"):
        shown["Timelines of test recordings"] = target / "timelines.png"
    if draw.closeups(measured.value, target / "closeups.png"):
        shown["Close-up questions"] = target / "closeups.png"
    draw.reliability(measured.value, target / "calibration.png")
    shown["Calibration of the candidate"] = target / "calibration.png"
    if draw.failures(windows, run.greedy, config.num_failures, target / "failures.png"):
        shown["Wrong answers of the candidate"] = target / "failures.png"
    return shown


def prediction_line(index: int, window: Window, runs: Mapping[str, Run]) -> str:
    """One line of predictions.jsonl."""
    meta = window.meta
    row = {
        "clip_id": meta.clip_id,
        "pixels": window.pixels,
        "recording_id": meta.recording_id,
        "session": window.session,
        "start_s": meta.start_s,
        "scored": window.scored,
        "has_boundary": meta.has_boundary,
        "truth": as_json(window.truth),
        "predictions": {
            name: {
                "answer": as_json(run.greedy[index].answer),
                "text": run.greedy[index].text,
                "confidence": round(run.greedy[index].confidence, 6),
                "calls": run.greedy[index].calls,
                "sampled": [as_json(sample[index].answer) for sample in run.samples],
            }
            for name, run in runs.items()
        },
    }
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"

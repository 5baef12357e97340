"""The gate: may the candidate take the champion's place?

It promotes a model that beats every trivial baseline on OCA, AA@1 and timeline F1 with the interval excluded, whose
tIoU@0.5 on boundary windows is above the best constant segment's, and which is not worse than the champion by more than
delta (lower end of the paired difference). It holds where there are too few windows or sessions to say so. Every check
that was made, passed or failed, stands in `checks`; `reasons` are the sentences for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from components.evaluation.config import EvaluationConfig, GateConfig
from components.shared.runtime.artifacts import read_json
from components.shared.runtime.errors import ArtifactError

Decision = Literal["promote", "hold"]
HURDLES = {
    "oca": ("constant", "prior", "uniform"),
    "aa1": ("constant", "prior", "uniform", "bigram_from_predicted"),
    "timeline_f1": ("constant", "prior", "uniform"),
}
NAMES = {"oca": "OCA", "aa1": "AA@1", "timeline_f1": "timeline F1", "tiou50": "tIoU@0.5"}
BASELINES = {
    "uniform": "any answer, equally likely",
    "prior": "a random training answer",
    "constant": "the best constant answer",
    "bigram_from_predicted": "what usually follows the operation named",
    "bigram_from_truth": "what usually follows the true operation (reference)",
}
"""What baselines are called before readers, in the order in which they are shown."""
MEASURED = "measured.json"


@dataclass(frozen=True)
class Check:
    """One thing asked of the candidate."""

    name: str
    passed: bool
    text: str


def decide(config: EvaluationConfig, evaluation: Path) -> Decision:
    """The decision on an evaluation artifact, under this section's thresholds.

    Raises:
        ArtifactError: the artifact holds no measurements.
    """
    path = evaluation / MEASURED
    if not path.is_file():
        raise ArtifactError(f"{path} is missing, so there is nothing to decide on.", remedy="Run evaluation again.")
    return judge(read_json(path), config.gate)["decision"]


def judge(measured: Mapping[str, Any], gate: GateConfig) -> dict[str, Any]:
    """The content of gate.json from an evaluation's measurements.

    Args:
        measured: `candidate`, `choice`, `num_windows`, `num_sessions`, `differences[figure][baseline]`, `figures`,
            `baselines`, `champion` (None, or `num_shared` and `differences[figure]`).
        gate: Thresholds.
    """
    checks = [*sample_size(measured, gate), *against_baselines(measured), *against_constant_segment(measured)]
    checks += against_champion(measured, gate)
    failed = [check for check in checks if not check.passed]
    reasons = [check.text for check in (failed or checks)]
    return {
        "decision": "hold" if failed else "promote",
        "candidate": measured["candidate"],
        "choice": measured["choice"],
        "reasons": [measured["choice"], *reasons],
        "checks": [asdict(check) for check in checks],
        "thresholds": gate.model_dump(mode="json"),
    }


def sample_size(measured: Mapping[str, Any], gate: GateConfig) -> list[Check]:
    """Enough windows of enough sessions?"""
    windows, sessions = measured["num_windows"], measured["num_sessions"]
    few = "too few to decide" if windows < gate.min_windows else "enough"
    thin = "too few for an interval" if sessions < gate.min_sessions else "enough"
    return [
        Check(
            "num_windows", windows >= gate.min_windows, f"{windows} scored windows, {gate.min_windows} needed: {few}"
        ),
        Check(
            "num_sessions",
            sessions >= gate.min_sessions,
            f"{sessions} test sessions, {gate.min_sessions} needed: {thin}",
        ),
    ]


def against_baselines(measured: Mapping[str, Any]) -> list[Check]:
    """Above every trivial baseline, zero outside the interval of the paired difference?"""
    checks = []
    for figure, baselines in HURDLES.items():
        value = measured["figures"][figure]["value"]
        if value is None:
            checks.append(Check(figure, True, f"{NAMES[figure]} is not scored: no test window has a next operation"))
            continue
        found = {name: measured["differences"][figure][name] for name in baselines}
        hardest = min(found, key=lambda name: found[name]["value"])
        low = [item["low"] for item in found.values()]
        passed = all(end is not None and end > 0 for end in low)
        shown = describe(found[hardest])
        word = "beats every trivial baseline" if passed else "does not beat every trivial baseline"
        text = f"{NAMES[figure]} {value:.3f} {word}; closest is {BASELINES[hardest]}, difference {shown}"
        checks.append(Check(figure, passed, text))
    return checks


def against_constant_segment(measured: Mapping[str, Any]) -> list[Check]:
    """tIoU@0.5 on boundary windows above the best constant segment's?"""
    value, constant = measured["figures"]["tiou50"]["value"], measured["baselines"]["constant"]["tiou50"]["value"]
    if value is None or constant is None:
        return [Check("tiou50", True, "tIoU@0.5 is not scored: no test window contains a boundary")]
    passed = value > constant
    shown = describe(measured["differences"]["tiou50"]["constant"])
    relation = "above" if passed else "not above"
    text = (
        f"tIoU@0.5 on boundary windows {value:.3f} is {relation} the best constant segment's {constant:.3f} ({shown})"
    )
    return [Check("tiou50", passed, text)]


def against_champion(measured: Mapping[str, Any], gate: GateConfig) -> list[Check]:
    """Not worse than the champion by more than delta?"""
    champion = measured["champion"]
    if champion is None:
        return [Check("champion", True, "there is no champion yet")]
    if champion["num_shared"] < gate.min_windows:
        text = (
            f"the champion has answered {champion['num_shared']} of these {measured['num_windows']} windows, "
            f"{gate.min_windows} needed: the two cannot be compared"
        )
        return [Check("champion", not gate.require_comparison, text)]
    checks = []
    for figure, item in champion["differences"].items():
        if item["low"] is None:
            continue
        passed = item["low"] > -gate.delta
        word = "is not worse than" if passed else "may be worse than"
        text = (
            f"{NAMES[figure]} {word} the champion's: difference {describe(item)}, lower end must exceed -{gate.delta:g}"
        )
        checks.append(Check(f"champion_{figure}", passed, text))
    return checks or [Check("champion", False, "no paired difference to the champion has an interval")]


def describe(item: Mapping[str, Any]) -> str:
    """`+0.123 (0.081 … 0.166)`."""
    if item["value"] is None:
        return "not measured"
    if item["low"] is None:
        return f"{item['value']:+.3f} (no interval: one session)"
    return f"{item['value']:+.3f} ({item['low']:+.3f} … {item['high']:+.3f})"

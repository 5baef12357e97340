"""Both branches of the gate, one failed check at a time."""

import json

import pytest

from components.evaluation.config import EvaluationConfig, GateConfig
from components.evaluation.gate import BASELINES, HURDLES, MEASURED, decide, judge
from components.shared.runtime.errors import ArtifactError

BETTER = {"value": 0.3, "low": 0.2, "high": 0.4, "num_sessions": 20}
UNSURE = {"value": 0.05, "low": -0.01, "high": 0.1, "num_sessions": 20}
UNKNOWN = {"value": 0.3, "low": None, "high": None, "num_sessions": 1}
NONE = {"value": None, "low": None, "high": None, "num_sessions": 0}


def good() -> dict:
    """Measurements of a model that passes everything."""
    figure = {"value": 0.8, "low": 0.75, "high": 0.85, "num_sessions": 20}
    return {
        "candidate": "rft", "choice": "because", "num_windows": 350, "num_sessions": 20,
        "figures": {name: dict(figure) for name in ("oca", "aa1", "timeline_f1", "tiou50")},
        "baselines": {"constant": {"tiou50": {**figure, "value": 0.45}}},
        "differences": {name: dict.fromkeys(hurdles, BETTER) for name, hurdles in HURDLES.items()}
        | {"tiou50": {"constant": BETTER}},
        "champion": None,
    }  # fmt: skip


def champion(low: float, num_shared: int = 350) -> dict:
    item = {"value": 0.0, "low": low, "high": 0.05, "num_sessions": 20}
    return {"num_shared": num_shared, "differences": {"oca": BETTER, "aa1": item, "tiou50": NONE}}


def test_promote():
    gate = judge(good(), GateConfig())
    assert gate["decision"] == "promote" and gate["candidate"] == "rft"
    assert all(check["passed"] for check in gate["checks"]) and gate["reasons"][0] == "because"


@pytest.mark.parametrize("figure", HURDLES)
def test_one_baseline_within_the_interval_holds(figure):
    for baseline in HURDLES[figure]:
        measured = good()
        measured["differences"][figure] = {**measured["differences"][figure], baseline: UNSURE}
        gate = judge(measured, GateConfig())
        assert gate["decision"] == "hold"
        assert len(gate["reasons"]) == 2 and f"closest is {BASELINES[baseline]}, difference" in gate["reasons"][1]


def test_reasons_are_words():
    for measured in (good(), good() | {"champion": champion(-0.03)}):
        assert not any("_" in reason for reason in judge(measured, GateConfig())["reasons"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_windows": 299}, "299 scored windows, 300 needed"),
        ({"num_sessions": 4}, "4 test sessions"),
        ({"champion": champion(-0.03)}, "may be worse than the champion's"),
        ({"baselines": {"constant": {"tiou50": {"value": 0.8}}}}, "not above the best constant"),
    ],
)
def test_each_reason_to_hold(change, said):
    gate = judge(good() | change, GateConfig())
    assert gate["decision"] == "hold"
    assert any(said in reason for reason in gate["reasons"][1:]) and len(gate["reasons"]) == 2


def test_exactly_as_many_as_needed_are_enough():
    needed = GateConfig()
    just = {"num_windows": needed.min_windows, "num_sessions": needed.min_sessions}
    assert judge(good() | just, needed)["decision"] == "promote"
    compared = judge(good() | {"champion": champion(-0.5, num_shared=needed.min_windows)}, needed)
    assert compared["decision"] == "hold", "so many shared windows are a comparison"


def test_a_champion_within_delta_may_be_replaced():
    assert judge(good() | {"champion": champion(-0.019)}, GateConfig())["decision"] == "promote"
    assert judge(good() | {"champion": champion(-0.019)}, GateConfig(delta=0.01))["decision"] == "hold"


def test_a_champion_that_saw_other_windows_is_no_comparison_and_is_said():
    measured = good() | {"champion": champion(-0.5, num_shared=10)}
    gate = judge(measured, GateConfig())
    assert gate["decision"] == "promote" and any("cannot be compared" in reason for reason in gate["reasons"])
    assert judge(measured, GateConfig(require_comparison=True))["decision"] == "hold"


def test_no_interval_is_no_evidence():
    measured = good()
    measured["differences"]["oca"] = dict.fromkeys(HURDLES["oca"], UNKNOWN)
    assert judge(measured, GateConfig())["decision"] == "hold"


def test_data_without_next_operations_is_judged_on_the_rest():
    measured = good()
    measured["figures"]["aa1"] = NONE
    gate = judge(measured, GateConfig())
    assert gate["decision"] == "promote" and any("AA@1 is not scored" in reason for reason in gate["reasons"])


def test_decide_reads_the_artifact(tmp_path):
    with pytest.raises(ArtifactError, match=r"measured\.json"):
        decide(EvaluationConfig(), tmp_path)
    (tmp_path / MEASURED).write_text(json.dumps(good()))
    assert decide(EvaluationConfig(), tmp_path) == "promote"
    assert decide(EvaluationConfig(gate=GateConfig(min_windows=1000)), tmp_path) == "hold"

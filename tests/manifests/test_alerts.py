"""The alerts speak of metrics that the service exports, with labels and values it uses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from components.ttrl.metrics import Metrics
from pipelines.kustomize import read_objects

RULES = Path(__file__).parents[2] / "manifests" / "monitoring" / "alerts.yaml"
KNOWN_VALUES = {
    "status": {"429", "5..", "rejected", "failed"},
    "part": {"decode", "rollouts", "memory", "answer", "request"},
}


def exported() -> dict[str, set[str]]:
    """Sample names the service exports, with their labels; every labelled metric touched once."""
    metrics = Metrics()
    for value in vars(metrics).values():
        names = getattr(value, "_labelnames", ())
        if names:
            value.labels(*["x"] * len(names))
    found: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def alerts() -> list[dict[str, Any]]:
    [rules] = read_objects(RULES)
    return [rule for group in rules["spec"]["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("alert", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_uses_what_the_service_exports(alert: dict[str, Any]) -> None:
    known = exported()
    used = re.findall(r"(pixelis_[a-z_]+)(?:\{([^}]*)\})?", alert["expr"])
    assert used
    for name, selector in used:
        assert name in known, name
        for label, value in re.findall(r'(\w+)=~?"([^"]*)"', selector):
            assert label in known[name], f"{name} has no label {label}"
            if label in KNOWN_VALUES:
                assert value in KNOWN_VALUES[label]


def test_parts_and_statuses_are_those_in_the_code() -> None:
    """The values an alert names appear in the service's code."""
    code = "".join(path.read_text() for path in (Path(__file__).parents[2] / "components" / "ttrl").glob("*.py"))
    for part in KNOWN_VALUES["part"]:
        assert f'latency.labels("{part}")' in code, part
    for status in ("rejected", "failed"):
        assert f'"{status}"' in code


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
    for rule in alerts():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert {"summary", "remedy"} == set(rule["annotations"])

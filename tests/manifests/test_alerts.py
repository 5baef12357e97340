"""The alerts speak of what the service exports, and Prometheus' own promtool sees each fire and stay silent."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.ttrl.metrics import Metrics
from pipelines.kustomize import read_objects

RULES = Path(__file__).parents[2] / "manifests" / "monitoring" / "alerts.yaml"
KNOWN_VALUES = {
    "status": {"429", "5..", "rejected", "failed"},
    "route": {"/healthz|/readyz|/metrics"},
    "part": {"decode", "rollouts", "memory", "answer", "request"},
}


KUBELETS = {"kubelet_volume_stats_available_bytes", "kubelet_volume_stats_capacity_bytes"}
"""Exported by every kubelet, not by the service."""
TRIED = RULES.parents[2] / "tests" / "manifests" / "alerts_test.yaml"
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")


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
    used = re.findall(r"\b(pixelis_[a-z_]+|kubelet_[a-z_]+)(?:\{([^}]*)\})?", alert["expr"])
    assert used
    for name, selector in used:
        if name in KUBELETS:
            continue
        assert name in known, name
        for label, value in re.findall(r'(\w+)[=!]~?"([^"]*)"', selector):
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


def test_the_probes_that_do_not_count_are_those_the_service_has() -> None:
    from components.ttrl.api import PROBES

    assert KNOWN_VALUES["route"] == {"|".join(PROBES)}


def test_the_volumes_are_those_of_the_manifests(everything: list[dict[str, Any]]) -> None:
    [rule] = [rule for rule in alerts() if rule["alert"] == "PixelisVolumeFills"]
    pattern = re.search(r'persistentvolumeclaim=~"([^"]*)"', rule["expr"])
    claims = {o["metadata"]["name"] for o in everything if o["kind"] == "PersistentVolumeClaim"}
    claims |= {
        f"{claim['metadata']['name']}-{o['metadata']['name']}-0"
        for o in everything
        if o["kind"] == "StatefulSet"
        for claim in o["spec"]["volumeClaimTemplates"]
    }
    assert pattern and claims
    assert {claim for claim in claims if re.fullmatch(pattern.group(1), claim)} == claims


def test_the_first_event_after_a_start_counts() -> None:
    """A series that appears with its first event has no increase; those an alert looks at are there from the start."""
    from components.ttrl.metrics import Metrics

    samples = {(s.name, s.labels.get("status")): s.value for f in Metrics().registry.collect() for s in f.samples}
    assert samples[("pixelis_updates_total", "failed")] == samples[("pixelis_updates_total", "rejected")] == 0
    assert samples[("pixelis_update_tasks_dropped_total", None)] == 0
    assert math.isnan(samples[("pixelis_canary_accuracy", None)]), "no accuracy is claimed before one is measured"


def test_every_alert_is_tried_firing_and_silent() -> None:
    firing, silent = set(), set()
    for case in yaml.safe_load(TRIED.read_text())["tests"]:
        for asked in case["alert_rule_test"]:
            (firing if asked["exp_alerts"] else silent).add(asked["alertname"])
    names = {rule["alert"] for rule in alerts()}
    assert firing == names
    assert silent == names


@needs_promtool
def test_promtool_finds_the_rules_right_and_every_alert_as_expected(tmp_path: Path) -> None:
    """The expected annotations are the rule's own, so that the test file need not repeat them."""
    [rules] = read_objects(RULES)
    (tmp_path / "alerts-rules.yaml").write_text(yaml.safe_dump(rules["spec"]))
    tried = yaml.safe_load(TRIED.read_text())
    notes = {rule["alert"]: rule["annotations"] for rule in alerts()}
    for case in tried["tests"]:
        for asked in case["alert_rule_test"]:
            for alert in asked["exp_alerts"]:
                alert["exp_annotations"] = notes[asked["alertname"]]
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tried))
    for arguments in (["check", "rules", "alerts-rules.yaml"], ["test", "rules", "tests.yaml"]):
        done = subprocess.run(["promtool", *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_would_notice_a_rule_that_does_not_fire(tmp_path: Path) -> None:
    """The test's own instrument."""
    [rules] = read_objects(RULES)
    text = yaml.safe_dump(rules["spec"]).replace("max(pixelis_ready) < 1", "max(pixelis_ready) < 0")
    (tmp_path / "alerts-rules.yaml").write_text(text)
    (tmp_path / "tests.yaml").write_text(TRIED.read_text())
    done = subprocess.run(["promtool", "test", "rules", "tests.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "PixelisNotReady" in done.stdout + done.stderr

"""Configurations that nothing refers to any more go with a deployment that proved itself; nothing else does."""

from __future__ import annotations

import copy
import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cluster_double import ClusterDouble, launcher

from components.shared.runtime.artifacts import tree_digest
from components.ttrl.config import TtrlConfig
from components.ttrl.deploy import DeployInputs, DeployOutputs, deploy
from components.ttrl.superseded import FRESH_S

HISTORY = 3
"""`revisionHistoryLimit` of manifests/base/ttrl.yaml."""


@pytest.fixture(autouse=True)
def answering(cluster: ClusterDouble, models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every release becomes ready and answers with its own model."""
    cluster.outcomes = {tree_digest(model): "ready" for model in models}

    def smoke_test(url: str, model: Path, **_: Any) -> tuple[dict[str, Any], float]:
        return {"model_digest": tree_digest(model), "answer": {}, "confidence": 0.9, "mode": "full"}, 0.1

    monkeypatch.setattr("components.ttrl.deploy.smoke_test", smoke_test)


def release(cluster: ClusterDouble, model: Path, folder: Path, rollouts: int) -> str:
    """One deployment whose configuration differs in `rollouts`; everything stored before is old by then."""
    for item in cluster.config_maps.values():
        made = datetime.now(UTC) - timedelta(seconds=FRESH_S + 60)
        item["metadata"]["creationTimestamp"] = made.isoformat()
    folder.mkdir(exist_ok=True)
    config = TtrlConfig(ready_timeout_s=5, rollouts=rollouts)
    return deploy(config, DeployInputs(model), DeployOutputs(folder), launcher=launcher(cluster)).markdown


def stored(cluster: ClusterDouble) -> list[int]:
    """The `rollouts` of every configuration that is there."""
    return sorted(json.loads(item["data"]["ttrl.json"])["rollouts"] for item in cluster.config_maps.values())


def test_what_no_release_refers_to_goes_and_what_the_history_can_go_back_to_stays(
    cluster: ClusterDouble, models: list[Path], tmp_path: Path
) -> None:
    for rollouts in range(2, 9):
        text = release(cluster, models[rollouts % 2], tmp_path / "service", rollouts)
        assert stored(cluster) == list(range(max(2, rollouts - HISTORY), rollouts + 1))
        assert ("Removed with" in text) == (rollouts >= 6)
    mentioned = json.dumps(cluster.history)
    assert all(name in mentioned for name in cluster.config_maps)


def test_the_release_before_keeps_its_configuration_when_the_history_is_short(
    cluster: ClusterDouble, models: list[Path], tmp_path: Path
) -> None:
    cluster.deployment["spec"]["revisionHistoryLimit"] = 1
    release(cluster, models[0], tmp_path / "service", 2)
    release(cluster, models[0], tmp_path / "service", 3)
    cluster.history = cluster.history[-1:]  # somebody removed the old ReplicaSets
    release(cluster, models[0], tmp_path / "service", 4)
    cluster.history = cluster.history[-1:]
    assert stored(cluster) == [3, 4]


def test_a_failed_release_removes_nothing(
    cluster: ClusterDouble, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rollouts in range(2, 6):
        release(cluster, models[0], tmp_path / "service", rollouts)
    monkeypatch.setattr("components.ttrl.deploy.smoke_test", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        release(cluster, models[1], tmp_path / "service", 6)
    assert stored(cluster) == [2, 3, 4, 5, 6]
    assert cluster.release.model_uri.endswith("/one")


def foreign(name: str, labels: dict[str, str]) -> dict[str, Any]:
    made = datetime.now(UTC) - timedelta(days=30)
    metadata = {"name": name, "labels": labels, "creationTimestamp": made.isoformat()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"ttrl.json": '{"rollouts": 1}'}}


OURS = {"app.kubernetes.io/name": "pixelis-ttrl", "app.kubernetes.io/managed-by": "pixelis-deploy"}


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("kube-root-ca.crt", {}),
        ("pixelis-ttrl-config", {"app.kubernetes.io/part-of": "pixelis"}),
        ("pixelis-ttrl-config-0123456789", {"app.kubernetes.io/name": "pixelis-ttrl"}),
        ("pixelis-ttrl-config-0123456789", OURS | {"app.kubernetes.io/managed-by": "Helm"}),
        ("pixelis-ttrl-config-by-hand", OURS),
        ("pixelis-ttrl-config-0123456789-copy", OURS),
    ],
    ids=["clusters", "manifests", "no manager", "other manager", "other name", "longer name"],
)
def test_what_the_step_did_not_make_is_never_touched(
    cluster: ClusterDouble, models: list[Path], tmp_path: Path, name: str, labels: dict[str, str]
) -> None:
    cluster.config_maps[name] = foreign(name, labels)
    release(cluster, models[0], tmp_path / "service", 2)
    assert name in cluster.config_maps


def test_one_of_ours_beside_them_goes(cluster: ClusterDouble, models: list[Path], tmp_path: Path) -> None:
    """The test before this one would hold for code that deletes nothing."""
    cluster.config_maps["pixelis-ttrl-config-0123456789"] = foreign("pixelis-ttrl-config-0123456789", OURS)
    text = release(cluster, models[0], tmp_path / "service", 2)
    assert "pixelis-ttrl-config-0123456789" not in cluster.config_maps
    assert "pixelis-ttrl-config-0123456789" in text


def test_what_another_deployment_has_just_stored_is_spared(
    cluster: ClusterDouble, models: list[Path], tmp_path: Path
) -> None:
    young = foreign("pixelis-ttrl-config-0123456789", OURS)
    cluster.config_maps["pixelis-ttrl-config-0123456789"] = young
    folder = tmp_path / "service"
    folder.mkdir()
    young["metadata"]["creationTimestamp"] = (datetime.now(UTC) - timedelta(seconds=FRESH_S - 60)).isoformat()
    deploy(TtrlConfig(ready_timeout_s=5), DeployInputs(models[0]), DeployOutputs(folder), launcher=launcher(cluster))
    assert "pixelis-ttrl-config-0123456789" in cluster.config_maps


@pytest.mark.parametrize("verb", ["list", "delete"])
def test_a_missing_right_is_said_and_the_release_stands(
    cluster: ClusterDouble, models: list[Path], tmp_path: Path, verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    for rollouts in range(2, 6):
        release(cluster, models[0], tmp_path / "service", rollouts)
    cluster.rules = copy.deepcopy(cluster.rules)
    for rule in cluster.rules:
        if "configmaps" in rule["resources"]:
            rule["verbs"].remove(verb)
    with caplog.at_level(logging.WARNING):
        text = release(cluster, models[1], tmp_path / "service", 6)
    assert f'cannot {verb} resource "configmaps"' in text and "rbac.yaml" in text
    assert "were not removed" in caplog.text
    assert stored(cluster) == [2, 3, 4, 5, 6]
    assert cluster.release.model_uri.endswith("/two"), "the release stands"
    record = json.loads((tmp_path / "service" / "service.json").read_text())
    assert record["model_digest"] == tree_digest(models[1])


def test_one_that_somebody_removed_meanwhile_is_no_fault(
    cluster: ClusterDouble, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rollouts in range(2, 6):
        release(cluster, models[0], tmp_path / "service", rollouts)
    answer = cluster.answer_config_maps

    def gone_first(method: str, names: list[str], query: dict[str, str], body: Any) -> Any:
        if method == "DELETE":
            del cluster.config_maps[names[0]]
        return answer(method, names, query, body)

    monkeypatch.setattr(cluster, "answer_config_maps", gone_first)
    assert "Removed with" in release(cluster, models[0], tmp_path / "service", 6)
    assert stored(cluster) == [3, 4, 5, 6]

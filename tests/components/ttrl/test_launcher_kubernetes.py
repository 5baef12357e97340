"""The deployment on Kubernetes against a double of the API server (cluster_double.py)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from cluster_double import ClusterDouble, Refused, launcher

from components.shared.runtime.artifacts import tree_digest
from components.shared.runtime.errors import ConfigError, EnvironmentFault, StepError
from components.ttrl.cluster_api import FIELD_MANAGER
from components.ttrl.config import TtrlConfig
from components.ttrl.deploy import DeployInputs, DeployOutputs, deploy, wait_ready
from components.ttrl.launcher import LocalLauncher, launcher_here
from components.ttrl.launcher_kubernetes import KubernetesLauncher
from components.ttrl.release import Release
from pipelines.kustomize import pod_spec

CONFIG = TtrlConfig(ready_timeout_s=2)


def test_a_release_is_applied_with_only_its_own_fields(
    cluster: ClusterDouble, models: list[Path], tmp_path: Path
) -> None:
    before = copy.deepcopy(cluster.deployment)
    sha = tree_digest(models[0])
    cluster.outcomes[sha] = "ready"
    rollout = launcher(cluster).replace(CONFIG, models[0], tmp_path)
    record = wait_ready(rollout, 5)
    assert record["url"] == cluster.url
    assert cluster.release == rollout.release
    assert cluster.release.model_uri == "minio://mlpipeline/v2/one"
    spec = pod_spec(cluster.deployment) or {}
    variables = {entry["name"]: entry.get("value") for entry in spec["initContainers"][0]["env"]}
    assert variables["PIXELIS_MODEL_SHA256"] == sha
    assert variables["AWS_DEFAULT_REGION"] == "us-east-1", "what the manifests set stays"
    assert spec["containers"][0]["resources"] == (pod_spec(before) or {})["containers"][0]["resources"]
    mine = {path for path, owners in cluster.owners.items() if FIELD_MANAGER in owners}
    names = {path[-1] for path in mine if path[-2] not in ("annotations",)}
    assert names == {"image", "name", "value"}
    config = cluster.config_maps[cluster.release.config_map]
    assert config["immutable"] is True
    section = TtrlConfig.parse(config["data"]["ttrl.json"], name="ttrl")
    assert (section.host, section.port, bool(section.keys_file)) == ("0.0.0.0", 8400, True)


@pytest.mark.parametrize(("outcome", "container"), [("crash", "ttrl"), ("pull", "model")])
def test_a_release_that_cannot_start_is_taken_back(
    cluster: ClusterDouble, models: list[Path], tmp_path: Path, outcome: str, container: str
) -> None:
    cluster.outcomes = {tree_digest(models[0]): "ready", tree_digest(models[1]): outcome}
    good = launcher(cluster).replace(CONFIG, models[0], tmp_path)
    wait_ready(good, 5)
    served = copy.deepcopy(cluster.deployment["spec"])
    bad = launcher(cluster, image="ghcr.io/pixelis/pixelis-serve:def-cpu").replace(
        CONFIG.model_copy(update={"rollouts": 4}), models[1], tmp_path
    )
    with pytest.raises(StepError, match=f"{container}: the end of the log"):
        wait_ready(bad, 5)
    bad.kill()
    assert cluster.deployment["spec"] == served, "image, model and configuration are those of before"
    assert good.is_out()


def test_a_release_that_never_becomes_ready_is_given_up_in_time(
    cluster: ClusterDouble, models: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(StepError, match="was not ready"):
        wait_ready(launcher(cluster).replace(CONFIG, models[0], tmp_path), 0.5)


def test_taking_back_the_first_release_leaves_no_model(
    cluster: ClusterDouble, models: list[Path], tmp_path: Path
) -> None:
    cluster.outcomes[tree_digest(models[0])] = "crash"
    first = launcher(cluster).replace(CONFIG, models[0], tmp_path)
    first.kill()
    assert cluster.release.model_uri == ""
    names = [entry["name"] for entry in (pod_spec(cluster.deployment) or {})["initContainers"][0]["env"]]
    assert names == ["AWS_DEFAULT_REGION"]
    assert cluster.release.image == "ghcr.io/pixelis/pixelis-serve:0.1.0-cpu"


def test_the_same_release_twice_changes_nothing(cluster: ClusterDouble, models: list[Path], tmp_path: Path) -> None:
    cluster.outcomes[tree_digest(models[0])] = "ready"
    wait_ready(launcher(cluster).replace(CONFIG, models[0], tmp_path), 5)
    generation = cluster.deployment["metadata"]["generation"]
    wait_ready(launcher(cluster).replace(CONFIG, models[0], tmp_path), 5)
    assert cluster.deployment["metadata"]["generation"] == generation
    assert len(cluster.config_maps) == 1


def test_the_step_itself_rolls_back_when_the_smoke_test_fails(
    cluster: ClusterDouble, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release that is ready and answers wrongly: the double has no POST /predict."""
    cluster.outcomes = {tree_digest(model): "ready" for model in models}
    wait_ready(launcher(cluster).replace(CONFIG, models[0], tmp_path), 5)
    monkeypatch.setattr("components.ttrl.deploy.smoke_test", failing)
    (tmp_path / "service").mkdir()
    with pytest.raises(StepError, match="another model"):
        deploy(CONFIG, DeployInputs(models[1]), DeployOutputs(tmp_path / "service"), launcher=launcher(cluster))
    assert cluster.release.model_uri.endswith("/one")
    assert not list((tmp_path / "service").iterdir())


def failing(*_: Any, **__: Any) -> Any:
    raise StepError("the service answers with another model")


def test_the_step_records_the_endpoint(
    cluster: ClusterDouble, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.outcomes = {tree_digest(model): "ready" for model in models}
    answer = {"model_digest": tree_digest(models[0]), "answer": {}, "confidence": 0.9, "mode": "full"}
    monkeypatch.setattr("components.ttrl.deploy.smoke_test", lambda *_, **__: (answer, 0.1))
    (tmp_path / "service").mkdir()
    report = deploy(CONFIG, DeployInputs(models[0]), DeployOutputs(tmp_path / "service"), launcher=launcher(cluster))
    record = json.loads((tmp_path / "service" / "service.json").read_text())
    assert (record["url"], record["deployment"]) == (cluster.url, "pixelis/pixelis-ttrl")
    assert record["model_digest"] == tree_digest(models[0])
    assert "deployment pixelis/pixelis-ttrl" in report.markdown


def test_an_api_that_is_away_for_a_moment_takes_nothing_back(
    cluster: ClusterDouble, models: list[Path], tmp_path: Path
) -> None:
    cluster.outcomes[tree_digest(models[0])] = "ready"
    cluster.away = 2
    rollout = launcher(cluster, patience_s=5.0).replace(CONFIG, models[0], tmp_path)
    cluster.away = 2
    wait_ready(rollout, 5)
    assert cluster.release.model_uri.endswith("/one")
    cluster.away = 10**6
    with pytest.raises(EnvironmentFault, match="503"):
        launcher(cluster, patience_s=0.2).replace(CONFIG, models[0], tmp_path)


def test_a_missing_right_is_named(cluster: ClusterDouble, models: list[Path], tmp_path: Path) -> None:
    cluster.rules = [rule for rule in cluster.rules if "deployments" not in rule["resources"]]
    with pytest.raises(EnvironmentFault, match=r"403 .*rbac\.yaml"):
        launcher(cluster).replace(CONFIG, models[0], tmp_path)


def test_a_service_scaled_to_zero_is_named(cluster: ClusterDouble, models: list[Path], tmp_path: Path) -> None:
    cluster.deployment["spec"]["replicas"] = 0
    with pytest.raises(EnvironmentFault, match="scaled to zero"):
        wait_ready(launcher(cluster).replace(CONFIG, models[0], tmp_path), 1)


def test_a_model_outside_an_object_store_is_refused_before_any_change(cluster: ClusterDouble, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ConfigError, match="not in an object store"):
        launcher(cluster).replace(CONFIG, tmp_path / "model", tmp_path)
    assert not cluster.patches


def test_the_double_refuses_an_apply_that_takes_fields_without_force(
    cluster: ClusterDouble, models: list[Path]
) -> None:
    """The test's own instrument: a conflict is one."""
    body = Release(image="other/image:1", config_map="c").apply_body("pixelis")
    with pytest.raises(Refused, match="conflict"):
        cluster.apply(body, FIELD_MANAGER, False)


def test_only_a_pod_gets_the_clusters_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIXELIS_POD_NAMESPACE", raising=False)
    assert isinstance(launcher_here(), LocalLauncher)
    monkeypatch.setenv("PIXELIS_POD_NAMESPACE", "kubeflow")
    monkeypatch.setenv("PIXELIS_SERVE_IMAGE", "r/i:t")
    found = launcher_here()
    assert isinstance(found, KubernetesLauncher)
    assert (found.namespace, found.image) == ("pixelis", "r/i:t")

"""The deployment on Kubernetes against a double of the API server that keeps server-side apply's rules.

The double starts from the rendered manifests, grants only what manifests/base/rbac.yaml grants, validates every object
it is left with against the Kubernetes schemas, tracks who owns which field, and lets a new release become ready, crash
or hang. `kubernetes`, the official client, speaks to it over HTTP.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import pytest
from kubernetes import client

from components.shared.runtime import stores
from components.shared.runtime.artifacts import tree_digest
from components.shared.runtime.errors import ConfigError, EnvironmentFault, StepError
from components.ttrl.config import TtrlConfig
from components.ttrl.deploy import DeployInputs, DeployOutputs, deploy, wait_ready
from components.ttrl.launcher import LocalLauncher, launcher_here
from components.ttrl.launcher_kubernetes import FIELD_MANAGER, KubernetesLauncher, Release
from pipelines.kustomize import pod_spec, render

MANIFESTS = Path(__file__).parents[3] / "manifests"
MERGE_KEYS = {"containers": "name", "initContainers": "name", "env": "name", "volumes": "name", "tolerations": None}
Leaves = dict[tuple[str, ...], Any]


def leaves(value: Any, path: tuple[str, ...] = ()) -> Leaves:
    """An object as its fields; entries of map-lists by their key, other lists whole."""
    if isinstance(value, dict) and value:
        return {k: v for key, item in value.items() for k, v in leaves(item, (*path, key)).items()}
    key = MERGE_KEYS.get(path[-1]) if path else None
    if isinstance(value, list) and key:
        return {k: v for item in value for k, v in leaves(item, (*path, f"{key}={item[key]}")).items()}
    return {path: value}


def build(fields: Leaves) -> Any:
    """The object of its fields."""
    result: dict[str, Any] = {}
    for path, value in fields.items():
        place: Any = result
        for name, after in zip(path, (*path[1:], None), strict=True):
            if "=" in name and isinstance(place, list):
                key, _, wanted = name.partition("=")
                found = next((item for item in place if item[key] == wanted), None)
                if found is None:
                    found = {key: wanted}
                    place.append(found)
                place = found
            elif after is None:
                place[name] = copy.deepcopy(value)
            else:
                fresh: Any = [] if name in MERGE_KEYS and MERGE_KEYS[name] and "=" in after else {}
                place = place.setdefault(name, fresh)
    return result


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ClusterDouble:
    """State and rules."""

    def __init__(self) -> None:
        objects = render(MANIFESTS / "overlays" / "local")
        self.deployment = next(
            o for o in objects if o["kind"] == "Deployment" and o["metadata"]["name"] == "pixelis-ttrl"
        )
        self.rules = [rule for o in objects if o["kind"] == "Role" for rule in o["rules"]]
        self.deployment["metadata"]["generation"] = 1
        self.owners = {path: {"kubectl"} for path in leaves(self.deployment)}
        self.config_maps: dict[str, Any] = {}
        self.outcomes: dict[str, str] = {}
        """By model digest: ready, crash, pull or hang."""
        self.looks = 0
        self.away = 0
        """Answers 503 this many times."""
        self.patches: list[dict[str, Any]] = []
        self.url = ""

    @property
    def release(self) -> Release:
        return Release.of(self.deployment)

    def allow(self, group: str, resource: str, verb: str, name: str = "") -> None:
        for rule in self.rules:
            named = "resourceNames" not in rule or name in rule["resourceNames"]
            if group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"] and named:
                return
        raise Refused(403, f'cannot {verb} resource "{resource}" in API group "{group}"')

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, kind: str) -> Any:
        parts = path.strip("/").split("/")
        if self.away and parts != ["readyz"]:
            self.away -= 1
            raise Refused(503, "the server is currently unable to handle the request")
        match method, parts:
            case "GET", ["readyz"]:
                return {"status": "ready"} if self.outcome() == "ready" else {"status": "no", "reason": "loading"}
            case "GET", ["apis", "apps", "v1", "namespaces", "pixelis", "deployments", name]:
                self.allow("apps", "deployments", "get", name)
                if name != "pixelis-ttrl":
                    raise Refused(404, "not found")
                self.looks += 1
                return self.deployment | {"status": self.status()}
            case "PATCH", ["apis", "apps", "v1", "namespaces", "pixelis", "deployments", name]:
                self.allow("apps", "deployments", "patch", name)
                if kind != "application/apply-patch+yaml" or not query.get("fieldManager"):
                    raise Refused(415, "server-side apply needs its content type and a field manager")
                return self.apply(body, query["fieldManager"], query.get("force") in ("true", "True"))
            case "POST", ["api", "v1", "namespaces", "pixelis", "configmaps"]:
                self.allow("", "configmaps", "create")
                kubernetes_validate.validate(body, "1.34", strict=True)
                if body["metadata"]["name"] in self.config_maps:
                    raise Refused(409, "already exists")
                self.config_maps[body["metadata"]["name"]] = body
                return body
            case "GET", ["api", "v1", "namespaces", "pixelis", "pods"]:
                self.allow("", "pods", "list")
                assert query["labelSelector"] == "app.kubernetes.io/name=pixelis-ttrl"
                return {"kind": "PodList", "apiVersion": "v1", "items": [self.pod()]}
            case "GET", ["api", "v1", "namespaces", "pixelis", "pods", "pixelis-ttrl-0", "log"]:
                self.allow("", "pods/log", "get")
                return f"{query['container']}: the end of the log"
        raise Refused(404, f"{method} {path}")

    def apply(self, wanted: dict[str, Any], manager: str, force: bool) -> dict[str, Any]:
        """Server-side apply."""
        self.patches.append(wanted)
        new, old = leaves(wanted), leaves(self.deployment)
        new = {path: value for path, value in new.items() if path[0] == "spec"}
        conflicts = [p for p, v in new.items() if p in old and old[p] != v and self.owners.get(p, set()) - {manager}]
        if conflicts and not force:
            raise Refused(409, f"conflict: {conflicts}")
        gone = [p for p, owners in self.owners.items() if owners == {manager} and p not in new]
        for path, value in new.items():
            if value == []:
                continue
            self.owners[path] = {manager} if path in conflicts else self.owners.get(path, set()) | {manager}
            old[path] = value
        for path in gone:
            del self.owners[path], old[path]
        generation = self.deployment["metadata"]["generation"]
        changed = build(old)
        if changed["spec"] != self.deployment["spec"]:
            changed["metadata"]["generation"] = generation + 1
            self.looks = 0
        kubernetes_validate.validate(changed, "1.34", strict=True)
        spec = pod_spec(changed) or {}
        for container in [*spec["containers"], *spec["initContainers"]]:
            if not container.get("image") or any(
                "value" not in e and "valueFrom" not in e for e in container.get("env", [])
            ):
                raise Refused(422, f"container {container['name']} is not complete")
        self.deployment = changed
        return changed

    def outcome(self) -> str:
        return self.outcomes.get(self.release.model_sha256, "hang")

    def status(self) -> dict[str, Any]:
        """What the controller reports: nothing new at the first look, then what the release is scripted for."""
        generation = self.deployment["metadata"]["generation"]
        if self.looks < 2:
            return {"observedGeneration": generation - 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
        status = {"observedGeneration": generation, "replicas": 1, "updatedReplicas": 1}
        return status | ({"availableReplicas": 1} if self.outcome() == "ready" else {"unavailableReplicas": 1})

    def pod(self) -> dict[str, Any]:
        reason = {"crash": "CrashLoopBackOff", "pull": "ImagePullBackOff"}.get(self.outcome())
        state = {"waiting": {"reason": reason, "message": "back-off"}} if reason else {"running": {}}
        common = {"image": "i", "imageID": "i", "ready": False, "restartCount": 0}
        return {
            "metadata": {
                "name": "pixelis-ttrl-0",
                "annotations": self.deployment["spec"]["template"]["metadata"].get("annotations"),
            },
            "status": {
                "initContainerStatuses": [
                    common | {"name": "model", "state": state if reason == "ImagePullBackOff" else {}}
                ],
                "containerStatuses": [
                    common | {"name": "ttrl", "state": state if reason != "ImagePullBackOff" else {}}
                ],
            },
        }


@pytest.fixture
def cluster() -> Iterator[ClusterDouble]:
    double = ClusterDouble()

    class Handler(BaseHTTPRequestHandler):
        def any_method(self) -> None:
            parts = urlsplit(self.path)
            query = {key: value[0] for key, value in parse_qs(parts.query).items()}
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, value = 200, None
            try:
                value = double.answer(
                    self.command,
                    parts.path,
                    query,
                    json.loads(raw) if raw else None,
                    self.headers.get("content-type", ""),
                )
            except Refused as error:
                status, value = error.status, {"kind": "Status", "message": str(error), "code": error.status}
            if parts.path == "/readyz" and value["status"] != "ready":
                status = 503
            data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "text/plain" if isinstance(value, str) else "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PATCH = do_POST = any_method

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    double.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield double
    server.shutdown()
    server.server_close()


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two promoted models where KFP shows a store."""
    monkeypatch.setitem(stores.MOUNTS, f"{tmp_path}/store/", "minio://")
    folders = []
    for name in ("one", "two"):
        folder = tmp_path / "store" / "mlpipeline" / "v2" / name
        folder.mkdir(parents=True)
        (folder / "promotion.json").write_text(json.dumps({"provenance": "synthetic", "name": name}))
        folders.append(folder)
    return folders


def launcher(
    cluster: ClusterDouble, image: str = "ghcr.io/pixelis/pixelis-serve:abc-cpu", patience_s: float = 1.0
) -> KubernetesLauncher:
    settings = client.Configuration()
    settings.host = cluster.url
    return KubernetesLauncher(
        image=image, client=client.ApiClient(settings), url=cluster.url, poll_s=0.01, patience_s=patience_s
    )


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

"""A double of the API server that keeps server-side apply's rules and the Deployment controller's history.

It starts from the rendered manifests, grants only what manifests/base/rbac.yaml grants, validates every object it is
left with against the Kubernetes schemas, tracks who owns which field, keeps a ReplicaSet a template as long as
`revisionHistoryLimit` says, and lets a new release become ready, crash or hang. `kubernetes`, the official client,
speaks to it over HTTP.
"""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
from applied_fields import build, leaves
from kubernetes import client

from components.ttrl.launcher_kubernetes import KubernetesLauncher
from components.ttrl.release import Release
from pipelines.kustomize import pod_spec, render

MANIFESTS = Path(__file__).parents[3] / "manifests"


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
        self.history: list[dict[str, Any]] = []
        self.keep_history()
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
            case "GET", ["apis", "apps", "v1", "namespaces", "pixelis", "replicasets"]:
                self.allow("apps", "replicasets", "list")
                return {"kind": "ReplicaSetList", "apiVersion": "apps/v1", "items": selected(self.history, query)}
            case _, ["api", "v1", "namespaces", "pixelis", "configmaps", *names]:
                return self.answer_config_maps(method, names, query, body)
            case "GET", ["api", "v1", "namespaces", "pixelis", "pods"]:
                self.allow("", "pods", "list")
                assert query["labelSelector"] == "app.kubernetes.io/name=pixelis-ttrl"
                return {"kind": "PodList", "apiVersion": "v1", "items": [self.pod()]}
            case "GET", ["api", "v1", "namespaces", "pixelis", "pods", "pixelis-ttrl-0", "log"]:
                self.allow("", "pods/log", "get")
                return f"{query['container']}: the end of the log"
        raise Refused(404, f"{method} {path}")

    def answer_config_maps(self, method: str, names: list[str], query: dict[str, str], body: Any) -> Any:
        match method, names:
            case "POST", []:
                self.allow("", "configmaps", "create")
                kubernetes_validate.validate(body, "1.34", strict=True)
                if body["metadata"]["name"] in self.config_maps:
                    raise Refused(409, "already exists")
                body["metadata"]["creationTimestamp"] = datetime.now(UTC).isoformat()
                self.config_maps[body["metadata"]["name"]] = body
                return body
            case "GET", []:
                self.allow("", "configmaps", "list")
                items = selected(list(self.config_maps.values()), query)
                return {"kind": "ConfigMapList", "apiVersion": "v1", "items": items}
            case "DELETE", [name]:
                self.allow("", "configmaps", "delete", name)
                if self.config_maps.pop(name, None) is None:
                    raise Refused(404, "not found")
                return {"kind": "Status", "status": "Success"}
        raise Refused(404, f"{method} configmaps {names}")

    def keep_history(self) -> None:
        """What the Deployment controller does with its ReplicaSets: one a template, the newest last, old ones go."""
        template = self.deployment["spec"]["template"]
        name = f"pixelis-ttrl-{hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:8]}"
        labels = template["metadata"]["labels"]
        current = {"metadata": {"name": name, "labels": labels}, "spec": {"selector": {}, "template": template}}
        earlier = [item for item in self.history if item["metadata"]["name"] != name]
        self.history = [*earlier[-self.deployment["spec"]["revisionHistoryLimit"] :], copy.deepcopy(current)]

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
        self.keep_history()
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


def selected(items: list[dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
    """The items whose labels a list's selector asks for."""
    wanted = dict(part.split("=") for part in query["labelSelector"].split(","))
    return [item for item in items if wanted.items() <= (item["metadata"].get("labels") or {}).items()]


def serve(double: ClusterDouble) -> Iterator[ClusterDouble]:
    """The double behind an address, until the generator is closed."""

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

        do_GET = do_PATCH = do_POST = do_DELETE = any_method

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    double.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield double
    server.shutdown()
    server.server_close()


def launcher(
    cluster: ClusterDouble, image: str = "ghcr.io/pixelis/pixelis-serve:abc-cpu", patience_s: float = 1.0
) -> KubernetesLauncher:
    settings = client.Configuration()
    settings.host = cluster.url
    return KubernetesLauncher(
        image=image, client=client.ApiClient(settings), url=cluster.url, poll_s=0.01, patience_s=patience_s
    )

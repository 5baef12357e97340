"""A double of the cluster for TrainJobs: an API server that keeps Trainer v2's rules; nodes are real processes.

What it refuses: rights that manifests/trainer does not grant, unknown fields of a TrainJob (against the types that
`kubeflow_trainer_api` is generated with), a runtime that does not exist, environment for the node container by a patch,
a second job of the same name. A job's nodes are started as the controller starts them: the job's command in each, with
PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT; a node that fails ends the others, and all start again
as often as the runtime allows.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubeflow_trainer_api import models

from components.shared.runtime.train_job import Nodes
from pipelines.kustomize import render

MANIFESTS = Path(__file__).parents[4] / "manifests" / "trainer"
NAMESPACE = "kubeflow"
EXCHANGE = "s3://mlpipeline/exchange"


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class TrainerDouble:
    """State and rules."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        objects = render(MANIFESTS)
        self.runtime = next(o for o in objects if o["kind"] == "TrainingRuntime")
        self.rules = [rule for o in objects if o["kind"] == "Role" for rule in o["rules"]]
        self.folder, self.environment = folder, environment
        self.jobs: dict[str, dict[str, Any]] = {}
        self.nodes: dict[str, list[subprocess.Popen[bytes]]] = {}
        self.created: list[dict[str, Any]] = []
        self.attempts = 0
        self.silent = False
        """Answers nothing but 503."""
        self.runs_nodes = True
        self.command: list[str] = []
        """Started on every node instead of the job's command, with the node's number as last word."""
        self.max_restarts = self.runtime["spec"]["template"]["spec"]["failurePolicy"]["maxRestarts"]

    def allow(self, group: str, resource: str, verb: str, name: str = "") -> None:
        for rule in self.rules:
            named = "resourceNames" not in rule or name in rule["resourceNames"]
            if group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"] and named:
                return
        raise Refused(403, f'cannot {verb} resource "{resource}" in API group "{group}"')

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        if self.silent:
            raise Refused(503, "the server is currently unable to handle the request")
        group = "trainer.kubeflow.org"
        match method, path.strip("/").split("/"):
            case "GET", [
                "apis",
                "trainer.kubeflow.org",
                "v1alpha1",
                "namespaces",
                "kubeflow",
                "trainingruntimes",
                name,
            ]:
                self.allow(group, "trainingruntimes", "get", name)
                if name != self.runtime["metadata"]["name"]:
                    raise Refused(404, f'trainingruntimes "{name}" not found')
                return self.runtime
            case "POST", ["apis", "trainer.kubeflow.org", "v1alpha1", "namespaces", "kubeflow", "trainjobs"]:
                self.allow(group, "trainjobs", "create")
                return self.create(body)
            case "GET", ["apis", "trainer.kubeflow.org", "v1alpha1", "namespaces", "kubeflow", "trainjobs", name]:
                self.allow(group, "trainjobs", "get", name)
                return self.job(name)
            case "DELETE", ["apis", "trainer.kubeflow.org", "v1alpha1", "namespaces", "kubeflow", "trainjobs", name]:
                self.allow(group, "trainjobs", "delete", name)
                self.job(name)
                self.stop(name)
                del self.jobs[name]
                return {"kind": "Status", "status": "Success"}
            case "GET", ["api", "v1", "namespaces", "kubeflow", "pods"]:
                self.allow("", "pods", "list")
                name = query["labelSelector"].partition("=")[2].partition(",")[0]
                return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self.pods(name)}
            case "GET", ["api", "v1", "namespaces", "kubeflow", "pods", pod, "log"]:
                self.allow("", "pods/log", "get")
                return (self.folder / f"{pod}.log").read_text()
            case "GET", ["api", "v1", "namespaces", _, "configmaps", "kubeflow-trainer-public"]:
                raise Refused(403, "cannot get configmaps in another namespace")
        raise Refused(404, f"{method} {path}")

    def job(self, name: str) -> dict[str, Any]:
        if name not in self.jobs:
            raise Refused(404, f'trainjobs "{name}" not found')
        return self.jobs[name]

    def create(self, value: dict[str, Any]) -> dict[str, Any]:
        check_train_job(value)
        name = value["metadata"]["name"]
        if name in self.jobs:
            raise Refused(409, f'trainjobs "{name}" already exists')
        wanted = {"kind": "TrainingRuntime", "name": self.runtime["metadata"]["name"]}
        if value["spec"]["runtimeRef"] != wanted:
            raise Refused(400, f"no such runtime: {value['spec']['runtimeRef']}")
        now = datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
        self.created.append(json.loads(json.dumps(value)))
        value["metadata"] |= {"namespace": NAMESPACE, "creationTimestamp": now}
        self.jobs[name] = value
        if self.runs_nodes:
            threading.Thread(target=self.control, args=(name, value["spec"]["trainer"]), daemon=True).start()
        return value

    def control(self, name: str, trainer: dict[str, Any]) -> None:
        """What the controller and JobSet do: all nodes, again after a failure, and the job's condition."""
        for attempt in range(self.max_restarts + 1):
            self.attempts = attempt + 1
            port, count = str(free_port()), trainer["numNodes"]
            self.nodes[name] = [self.node(name, trainer, number, count, port) for number in range(count)]
            while any(node.poll() is None for node in self.nodes[name]):
                if any(node.poll() not in (None, 0) for node in self.nodes[name]):
                    self.stop(name)
                time.sleep(0.05)
            if name not in self.jobs:
                return
            if all(node.returncode == 0 for node in self.nodes[name]):
                self.end(name, "Complete")
                return
        self.end(name, "Failed")

    def end(self, name: str, kind: str) -> None:
        stamp = datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
        self.jobs[name]["status"] = {
            "conditions": [{"type": kind, "status": "True", "reason": kind, "message": "", "lastTransitionTime": stamp}]
        }

    def node(self, name: str, trainer: dict[str, Any], number: int, count: int, port: str) -> subprocess.Popen[bytes]:
        environment = self.environment | {entry["name"]: entry["value"] for entry in trainer.get("env", [])}
        environment |= {"PET_NNODES": str(count), "PET_NODE_RANK": str(number), "PET_NPROC_PER_NODE": "auto"}
        environment |= {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port}
        with open(self.folder / f"{name}-node-0-{number}.log", "ab") as out:
            command = [*self.command, str(number)] if self.command else [sys.executable, *trainer["command"][1:]]
            return subprocess.Popen(command, env=environment, stdout=out, stderr=out)

    def stop(self, name: str) -> None:
        """End all nodes of a job as the kubelet does."""
        for node in self.nodes.get(name, []):
            if node.poll() is None:
                node.terminate()
        for node in self.nodes.get(name, []):
            try:
                node.wait(10)
            except subprocess.TimeoutExpired:
                node.kill()

    def pods(self, name: str) -> list[dict[str, Any]]:
        phases = {None: "Running", 0: "Succeeded"}
        stamp = datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
        return [
            {
                "metadata": {
                    "name": f"{name}-node-0-{number}",
                    "creationTimestamp": stamp,
                    "labels": {
                        "jobset.sigs.k8s.io/jobset-name": name,
                        "jobset.sigs.k8s.io/replicatedjob-name": "node",
                        "batch.kubernetes.io/job-completion-index": str(number),
                    },
                },
                "spec": {"containers": [{"name": "node", "image": "i"}]},
                "status": {"phase": phases.get(node.poll(), "Failed")},
            }
            for number, node in enumerate(self.nodes.get(name, []))
        ]


def check_train_job(value: dict[str, Any]) -> None:
    """Refuse what is no TrainJob: unknown fields are those that the generated type does not give back."""
    known = models.TrainerV1alpha1TrainJob.from_dict(value)
    back = json.loads(json.dumps(known.to_dict(), default=str)) if known else {}
    if back != json.loads(json.dumps(value, default=str)):
        raise Refused(400, f"strict decoding error: {value} is not {back}")
    for patch in value["spec"].get("runtimePatches", []):
        for job in patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]:
            for container in job["template"]["spec"]["template"]["spec"].get("containers", []):
                if container["name"] == "node" and "env" in container:
                    raise Refused(403, "must not have envs for the node container")


def serve(double: TrainerDouble) -> ThreadingHTTPServer:
    """Start answering over HTTP."""

    class Handler(BaseHTTPRequestHandler):
        def any_method(self) -> None:
            parts = urlsplit(self.path)
            query = {key: value[0] for key, value in parse_qs(parts.query).items()}
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            try:
                status, value = 200, double.answer(self.command, parts.path, query, json.loads(raw) if raw else None)
            except Refused as error:
                status = error.status
                value = {"kind": "Status", "message": str(error), "code": status}
            data = value.encode() if isinstance(value, str) else json.dumps(value, default=str).encode()
            self.send_response(status)
            self.send_header("content-type", "text/plain" if isinstance(value, str) else "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = any_method

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without what a launcher before it may have set."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PET_", "PIXELIS_"))}
    return kept | more


def nodes(**more: Any) -> Nodes:
    """Two nodes of a step."""
    base = {"image": "ghcr.io/pixelis/pixelis-train:abc-gpu", "num_nodes": 2, "cpu": "4", "memory": "24Gi"}
    return Nodes(**base | {"timeout_s": 600, "exchange": EXCHANGE, "namespace": NAMESPACE} | more)


def trainer_client(double: TrainerDouble) -> Any:
    """The SDK's client, speaking to the double."""
    from kubeflow.common.types import KubernetesBackendConfig
    from kubeflow.trainer import TrainerClient
    from kubernetes import client

    settings = client.Configuration()
    settings.host = double.url  # type: ignore[attr-defined]
    return TrainerClient(KubernetesBackendConfig(namespace=NAMESPACE, client_configuration=settings))

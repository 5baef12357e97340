"""Puts the promoted model into the service on a cluster, by server-side apply, and takes it back when it fails.

Role: the `Launcher` of a pipeline run on Kubernetes. The workload itself is `manifests/base/ttrl.yaml`; this writes
only what a release is made of, as field manager `pixelis-deploy`: the images, the model's address and digest, the name
of the configuration, and annotations that say what serves. The configuration is an immutable ConfigMap named by its
digest, so an earlier release finds its own again.

Guarantees: fields of others (resources, tolerations, replicas) stay as their owners set them; a release that does not
become ready is undone, and the release before it is asked for and waited for.
Not guaranteed: service without a gap. One process owns the buffer, so the old pod ends before the new one starts.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from components.shared.runtime.artifacts import tree_digest
from components.shared.runtime.config import canonical_json
from components.shared.runtime.errors import EnvironmentFault
from components.shared.runtime.stores import object_uri
from components.ttrl.config import TtrlConfig

log = logging.getLogger(__name__)
FIELD_MANAGER = "pixelis-deploy"
DEPLOYMENT = "pixelis-ttrl"
CONFIG_MAP = "pixelis-ttrl-config"
CONTAINER, INIT_CONTAINER = "ttrl", "model"
ANNOTATION = "pixelis.io/"
APPLY = "application/apply-patch+yaml"
PASSING = (429, 500, 502, 503, 504)
"""Answers of an API server that may be others a moment later."""
HOPELESS = ("CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError")


def in_cluster(config: TtrlConfig) -> TtrlConfig:
    """The section as the service in a pod has it: reachable, with keys, state on its volume."""
    return config.model_copy(
        update={"host": "0.0.0.0", "port": 8400, "keys_file": "/etc/pixelis/keys/keys.json", "state_dir": ""}  # noqa: S104
    )


@dataclass(frozen=True)
class Release:
    """What serves: everything the deployment step owns of the workload."""

    image: str
    config_map: str
    model_uri: str = ""
    model_sha256: str = ""

    @property
    def digest(self) -> str:
        """Names the release on its pods."""
        return hashlib.sha256(canonical_json(asdict(self)).encode()).hexdigest()[:16]

    def apply_body(self, namespace: str) -> dict[str, Any]:
        """The fields of the Deployment that this release owns."""
        notes = {f"{ANNOTATION}release": self.digest}
        variables = []
        if self.model_uri:
            notes |= {f"{ANNOTATION}model-uri": self.model_uri, f"{ANNOTATION}model-sha256": self.model_sha256}
            variables = [
                {"name": "PIXELIS_MODEL_URI", "value": self.model_uri},
                {"name": "PIXELIS_MODEL_SHA256", "value": self.model_sha256},
            ]
        spec = {
            "initContainers": [{"name": INIT_CONTAINER, "image": self.image, "env": variables}],
            "containers": [{"name": CONTAINER, "image": self.image}],
            "volumes": [{"name": "config", "configMap": {"name": self.config_map}}],
        }
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": DEPLOYMENT, "namespace": namespace},
            "spec": {"template": {"metadata": {"annotations": notes}, "spec": spec}},
        }

    @classmethod
    def of(cls, deployment: dict[str, Any]) -> Release:
        """The release a Deployment asks for now."""
        template = deployment["spec"]["template"]
        notes = template.get("metadata", {}).get("annotations") or {}
        container = next(item for item in template["spec"]["containers"] if item["name"] == CONTAINER)
        volume = next(item for item in template["spec"]["volumes"] if item["name"] == "config")
        return cls(
            image=container["image"],
            config_map=volume["configMap"]["name"],
            model_uri=notes.get(f"{ANNOTATION}model-uri", ""),
            model_sha256=notes.get(f"{ANNOTATION}model-sha256", ""),
        )


@dataclass
class Cluster:
    """The few calls this needs, with errors that name the remedy. See manifests/base/rbac.yaml for the rights."""

    namespace: str
    client: Any = None
    patience_s: float = 120.0
    """How long a server that does not answer is asked again."""
    deployments: Any = field(init=False)
    core: Any = field(init=False)

    def __post_init__(self) -> None:
        from kubernetes import client

        self.client = self.client or connect()
        self.deployments, self.core = client.AppsV1Api(self.client), client.CoreV1Api(self.client)

    def plain(self, value: Any) -> Any:
        """An API object as the plain dictionaries it was sent as."""
        return self.client.sanitize_for_serialization(value)

    def deployment(self) -> dict[str, Any]:
        """The service's Deployment."""
        return self.plain(self.ask(self.deployments.read_namespaced_deployment, DEPLOYMENT, self.namespace))

    def apply(self, release: Release) -> dict[str, Any]:
        """Server-side apply; takes the fields over from whoever has them.

        Called below the generated method, which in this client cannot name the content type.
        """
        return self.plain(
            self.ask(
                self.client.call_api,
                f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{DEPLOYMENT}",
                "PATCH",
                query_params=[("fieldManager", FIELD_MANAGER), ("force", "true")],
                header_params={"Accept": "application/json", "Content-Type": APPLY},
                body=release.apply_body(self.namespace),
                response_type="V1Deployment",
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
            )
        )

    def keep_config(self, config: TtrlConfig) -> str:
        """Store the section as an immutable ConfigMap named by its digest; returns the name."""
        section = in_cluster(config)
        name = f"{CONFIG_MAP}-{section.digest()[:10]}"
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "labels": {"app.kubernetes.io/name": DEPLOYMENT}},
            "immutable": True,
            "data": {"ttrl.json": json.dumps(section.model_dump(mode="json"), indent=2, sort_keys=True)},
        }
        try:
            self.ask(self.core.create_namespaced_config_map, self.namespace, body, field_manager=FIELD_MANAGER)
        except EnvironmentFault as error:
            if getattr(error.__cause__, "status", 0) != 409:  # there already: the same name holds the same content
                raise
        return name

    def pods(self, release: Release) -> list[dict[str, Any]]:
        """The release's pods."""
        found = self.ask(
            self.core.list_namespaced_pod, self.namespace, label_selector=f"app.kubernetes.io/name={DEPLOYMENT}"
        )
        items = [self.plain(item) for item in found.items]
        key = f"{ANNOTATION}release"
        return [item for item in items if (item["metadata"].get("annotations") or {}).get(key) == release.digest]

    def log_of(self, pod: str, container: str, num_lines: int) -> str:
        """The end of a container's log."""
        return self.ask(
            self.core.read_namespaced_pod_log, pod, self.namespace, container=container, tail_lines=num_lines
        )

    def ask(self, call: Any, *arguments: Any, **options: Any) -> Any:
        """A call with a time limit, its errors explained.

        A server that restarts or is overloaded is asked again for `patience_s`: every call here may be repeated, and a
        release must not be taken back because the API was away for a moment.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        deadline = time.monotonic() + self.patience_s
        while True:
            try:
                return call(*arguments, **options, _request_timeout=30)
            except ApiException as error:
                if error.status not in PASSING or time.monotonic() > deadline:
                    raise explained(error, call.__name__) from error
            except HTTPError as error:
                if time.monotonic() > deadline:
                    raise EnvironmentFault(f"the cluster's API does not answer ({type(error).__name__}).") from error
            time.sleep(min(2.0, self.patience_s / 10))


def connect() -> Any:
    """An API client with the pod's own account, else the user's kubeconfig."""
    from kubernetes import client, config

    try:
        config.load_incluster_config()
    except config.ConfigException:
        config.load_kube_config()
    return client.ApiClient()


def explained(error: Any, what: str) -> EnvironmentFault:
    """An API error with what to do about it."""
    remedies = {
        403: "Apply manifests/base/rbac.yaml and run with the service account it binds.",
        404: "Apply the manifests first: kubectl apply --server-side -k manifests/overlays/local",
    }
    try:
        reason = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        reason = error.reason
    return EnvironmentFault(
        f"{what}: the cluster answers {error.status} ({reason}).", remedy=remedies.get(error.status, "")
    )


@dataclass
class Rollout:
    """A release on its way (the `Running` of the launcher's seam)."""

    cluster: Cluster
    release: Release
    before: Release
    url: str
    timeout_s: float
    poll_s: float = 1.0

    log: str = field(init=False)
    """The command that shows the service's log."""

    def __post_init__(self) -> None:
        self.log = f"kubectl -n {self.cluster.namespace} logs deployment/{DEPLOYMENT}"

    def record(self) -> dict[str, Any] | None:
        """Where the service is, once the release is rolled out."""
        if not self.is_out():
            return None
        return {
            "url": self.url,
            "pid": None,
            "state_dir": f"{self.cluster.namespace}/persistentvolumeclaim/{DEPLOYMENT}-state",
            "deployment": f"{self.cluster.namespace}/{DEPLOYMENT}",
            "release": asdict(self.release),
        }

    def is_out(self) -> bool:
        """Whether all replicas are of this release and ready."""
        found = self.cluster.deployment()
        replicas, status = found["spec"].get("replicas", 1), found.get("status", {})
        if replicas == 0:
            raise EnvironmentFault(
                f"deployment {DEPLOYMENT} is scaled to zero, so the model cannot be tried.",
                remedy=f"kubectl -n {self.cluster.namespace} scale deployment/{DEPLOYMENT} --replicas=1",
            )
        return status.get("observedGeneration", 0) >= found["metadata"]["generation"] and all(
            status.get(key, 0) == replicas for key in ("replicas", "updatedReplicas", "availableReplicas")
        )

    def is_alive(self) -> bool:
        """False once it cannot become ready any more."""
        found = self.cluster.deployment()
        current = found.get("status", {}).get("observedGeneration", 0) >= found["metadata"]["generation"]
        for condition in found.get("status", {}).get("conditions") or []:
            if current and condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
                return False
        return not any(self._hopeless(pod) for pod in self.cluster.pods(self.release))

    def _hopeless(self, pod: dict[str, Any]) -> str:
        """The container that cannot start, empty where all can."""
        status = pod.get("status", {})
        for item in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
            if (item.get("state", {}).get("waiting") or {}).get("reason") in HOPELESS:
                return item["name"]
        return ""

    def log_tail(self, num_lines: int = 15) -> str:
        """The end of the log of the container that fails, else of the service."""
        lines = []
        for pod in self.cluster.pods(self.release):
            name = self._hopeless(pod) or CONTAINER
            try:
                lines.append(self.cluster.log_of(pod["metadata"]["name"], name, num_lines))
            except EnvironmentFault as error:  # a container that never started has no log; the reason is elsewhere
                lines.append(str(error))
            for item in pod.get("status", {}).get("initContainerStatuses", []) + pod["status"].get(
                "containerStatuses", []
            ):
                waiting = item.get("state", {}).get("waiting")
                if waiting:
                    lines.append(f"{item['name']}: {waiting.get('reason', '')} {waiting.get('message', '')}".strip())
        return "\n".join(lines)

    def kill(self) -> None:
        """Undo: ask for the release before, and wait until it serves; its outcome goes to the log."""
        if self.before == self.release:
            log.error("release %s is what served before; there is nothing to go back to", self.release.digest)
            return
        self.cluster.apply(self.before)
        if not self.before.model_uri:
            log.error("release %s was taken back; no model served before it", self.release.digest)
            return
        previous = Rollout(self.cluster, self.before, self.before, self.url, self.timeout_s, self.poll_s)
        deadline = time.monotonic() + self.timeout_s
        while time.monotonic() < deadline:
            if previous.is_out():
                log.error("release %s was taken back; %s serves again", self.release.digest, self.before.model_uri)
                return
            time.sleep(self.poll_s)
        log.error("release %s was taken back; %s is not ready either", self.release.digest, self.before.model_uri)


@dataclass
class KubernetesLauncher:
    """Releases on a cluster.

    Attributes:
        namespace: Where the manifests put the service.
        image: Image of the release; empty keeps the one that runs.
        client: A `kubernetes.client.ApiClient`; made from the pod's account where absent.
        url: Address of the service; its name inside the cluster where empty.
    """

    namespace: str = "pixelis"
    image: str = ""
    client: Any = None
    url: str = ""
    poll_s: float = 1.0
    patience_s: float = 120.0

    def replace(self, config: TtrlConfig, model: Path, state: Path) -> Rollout:
        """Ask for a release of `model`; `state` is the service's own volume and not used here."""
        uri = object_uri(model)
        cluster = Cluster(self.namespace, self.client, self.patience_s)
        before = Release.of(cluster.deployment())
        release = Release(
            image=self.image or before.image,
            config_map=cluster.keep_config(config),
            model_uri=uri,
            model_sha256=tree_digest(model),
        )
        cluster.apply(release)
        log.info("asked for release %s of %s in %s/%s", release.digest, uri, self.namespace, DEPLOYMENT)
        url = self.url or f"http://{DEPLOYMENT}.{self.namespace}.svc.cluster.local"
        return Rollout(cluster, release, before, url, config.ready_timeout_s, self.poll_s)


def from_environment() -> KubernetesLauncher | None:
    """The launcher of a task in a pod (`pipelines.placement` names its namespace), None elsewhere."""
    if not os.environ.get("PIXELIS_POD_NAMESPACE"):
        return None
    return KubernetesLauncher(
        namespace=os.environ.get("PIXELIS_SERVICE_NAMESPACE", "pixelis"),
        image=os.environ.get("PIXELIS_SERVE_IMAGE", ""),
    )

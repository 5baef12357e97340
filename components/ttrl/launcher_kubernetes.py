"""Puts the promoted model into the service on a cluster, by server-side apply, and takes it back when it fails.

Role: the `Launcher` of a pipeline run on Kubernetes. The workload itself is `manifests/base/ttrl.yaml`; this writes
only what a release is made of, as field manager `pixelis-deploy`: the images, the model's address and digest, the name
of the configuration, and annotations that say what serves. The configuration is an immutable ConfigMap named by its
digest, so an earlier release finds its own again; those that nothing can go back to are removed (`superseded`).

Guarantees: fields of others (resources, tolerations, replicas) stay as their owners set them; a release that does not
become ready is undone, and the release before it is asked for and waited for.
Not guaranteed: service without a gap. One process owns the buffer, so the old pod ends before the new one starts.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from components.shared.runtime.artifacts import tree_digest
from components.shared.runtime.errors import EnvironmentFault
from components.shared.runtime.stores import object_uri
from components.ttrl.cluster_api import Cluster
from components.ttrl.config import TtrlConfig
from components.ttrl.release import CONTAINER, DEPLOYMENT, Release
from components.ttrl.superseded import prune

log = logging.getLogger(__name__)
HOPELESS = ("CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError")


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

    def settle(self) -> str:
        """Remove the configurations that only superseded releases used; a fault there leaves the release alone."""
        try:
            names = prune(self.cluster, (self.release, self.before))
        except EnvironmentFault as error:
            log.warning("configurations of superseded releases were not removed: %s", error)
            return f"Configurations of superseded releases were not removed; the next deployment tries again. {error}"
        return f"Removed with the releases that used them: {', '.join(names)}." if names else ""

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
        digest = tree_digest(model)  # before the configuration is stored: it takes its time, and nothing uses that yet
        release = Release(
            image=self.image or before.image,
            config_map=cluster.keep_config(config),
            model_uri=uri,
            model_sha256=digest,
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

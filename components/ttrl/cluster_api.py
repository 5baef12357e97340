"""The few calls to a cluster's API that a deployment needs, with errors that name the remedy.

manifests/base/rbac.yaml grants the rights for exactly these calls.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from components.shared.runtime.errors import EnvironmentFault
from components.ttrl.config import TtrlConfig
from components.ttrl.release import ANNOTATION, CONFIG_MAP, DEPLOYMENT, Release, in_cluster

FIELD_MANAGER = "pixelis-deploy"
MANAGED_BY = "app.kubernetes.io/managed-by"
APPLY = "application/apply-patch+yaml"
PASSING = (429, 500, 502, 503, 504)
"""Answers of an API server that may be others a moment later."""


@dataclass
class Cluster:
    """The service's namespace, as the deployment step may read and change it."""

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
        labels = {
            "app.kubernetes.io/name": DEPLOYMENT,
            "app.kubernetes.io/part-of": "pixelis",
            MANAGED_BY: FIELD_MANAGER,
        }
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "labels": labels},
            "immutable": True,
            "data": {"ttrl.json": json.dumps(section.model_dump(mode="json"), indent=2, sort_keys=True)},
        }
        try:
            self.ask(self.core.create_namespaced_config_map, self.namespace, body, field_manager=FIELD_MANAGER)
        except EnvironmentFault as error:
            if status_of(error) != 409:  # there already: the same name holds the same content
                raise
        return name

    def configs(self) -> list[dict[str, Any]]:
        """The configurations that deployment steps have stored."""
        selector = f"app.kubernetes.io/name={DEPLOYMENT},{MANAGED_BY}={FIELD_MANAGER}"
        found = self.ask(self.core.list_namespaced_config_map, self.namespace, label_selector=selector)
        return [self.plain(item) for item in found.items]

    def delete_config(self, name: str) -> None:
        """Delete a configuration; one that is gone already is as well."""
        try:
            self.ask(self.core.delete_namespaced_config_map, name, self.namespace)
        except EnvironmentFault as error:
            if status_of(error) != 404:
                raise

    def history(self) -> list[dict[str, Any]]:
        """The Deployment's ReplicaSets: the releases that `kubectl rollout undo` can go back to."""
        selector = f"app.kubernetes.io/name={DEPLOYMENT}"
        found = self.ask(self.deployments.list_namespaced_replica_set, self.namespace, label_selector=selector)
        return [self.plain(item) for item in found.items]

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


def status_of(error: EnvironmentFault) -> int:
    """The status of the API's answer behind an error, 0 where there was none."""
    return int(getattr(error.__cause__, "status", 0) or 0)

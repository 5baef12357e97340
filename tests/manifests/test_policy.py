"""What every workload must keep to: Pod Security restricted and more, checked on the rendered objects."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import compose
from pipelines.kustomize import containers, pod_spec, render

Object = dict[str, Any]
ROOT = Path(__file__).parents[2] / "manifests"
ALLOWED_VOLUMES = {"configMap", "secret", "emptyDir", "persistentVolumeClaim", "projected", "ephemeral", "downwardAPI"}
READERS = {"get", "list", "watch"}


def faults(item: Object) -> Iterator[str]:
    """What is wrong with one object."""
    spec = pod_spec(item)
    if spec is None:
        return
    yield from pod_faults(spec)
    for container in containers(item):
        serves = item["kind"] in ("Deployment", "StatefulSet") and container in spec["containers"]
        for fault in container_faults(container, probed=serves):
            yield f"{container['name']}: {fault}"


def pod_faults(spec: Object) -> Iterator[str]:
    """Faults of the pod itself."""
    context = spec.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        yield "may run as root"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "no seccomp profile"
    if spec.get("automountServiceAccountToken") is not False:
        yield "mounts an API token"
    if spec.get("serviceAccountName", "default") == "default":
        yield "no account of its own"
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield key
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= ALLOWED_VOLUMES:
            yield f"volume of kind {kinds}"
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield "scratch without a limit"
    if "terminationGracePeriodSeconds" not in spec:
        yield "no termination time"


def container_faults(container: Object, *, probed: bool) -> Iterator[str]:
    """Faults of a container."""
    image = container["image"]
    registry, _, rest = image.partition("/")
    if "." not in registry or not re.search(r":[A-Za-z0-9]", rest) or image.endswith(":latest"):
        yield f"image {image} is not pinned"
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
        yield "may gain privileges"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "writable root"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "capabilities"
    resources = container.get("resources", {})
    for kind in ("requests", "limits"):
        if not {"cpu", "memory"} <= set(resources.get(kind, {})):
            yield f"no {kind}"
    for probe in ("readinessProbe", "livenessProbe", "startupProbe") if probed else ():
        if probe not in container:
            yield f"no {probe}"
    for variable in container.get("env", []):
        if re.search(r"PASSWORD|SECRET|TOKEN|KEY", variable["name"]) and "value" in variable:
            yield f"secret {variable['name']} in clear"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "host port"


def test_no_object_breaks_the_policy(objects: list[Object]) -> None:
    found = [f"{o['kind']}/{o['metadata']['name']}: {fault}" for o in objects for fault in faults(o)]
    assert found == []


def service(objects: list[Object]) -> Object:
    return copy.deepcopy(
        next(o for o in objects if o["kind"] == "Deployment" and o["metadata"]["name"] == "pixelis-ttrl")
    )


BREAKERS: dict[str, Any] = {
    "is not pinned": lambda spec: spec["containers"][0].update(image="ghcr.io/pixelis/pixelis-serve:latest"),
    "no limits": lambda spec: spec["containers"][0]["resources"].pop("limits"),
    "no livenessProbe": lambda spec: spec["containers"][0].pop("livenessProbe"),
    "may gain privileges": lambda spec: spec["initContainers"][0]["securityContext"].update(privileged=True),
    "writable root": lambda spec: spec["initContainers"][0]["securityContext"].update(readOnlyRootFilesystem=False),
    "volume of kind": lambda spec: spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
    "may run as root": lambda spec: spec["securityContext"].update(runAsNonRoot=False),
    "hostNetwork": lambda spec: spec.update(hostNetwork=True),
    "mounts an API token": lambda spec: spec.pop("automountServiceAccountToken"),
    "in clear": lambda spec: spec["containers"][0]["env"].append({"name": "API_KEY", "value": "x"}),
    "scratch without a limit": lambda spec: spec["volumes"].append({"name": "s", "emptyDir": {}}),
}


@pytest.mark.parametrize("fault", list(BREAKERS))
def test_the_policy_finds(fault: str, everything: list[Object]) -> None:
    """The check itself: each breach, put into a good object, is found and alone."""
    item = service(everything)
    assert list(faults(item)) == []
    BREAKERS[fault](pod_spec(item))
    found = list(faults(item))
    assert len(found) == 1
    assert fault in found[0]


def test_the_namespace_is_restricted(everything: list[Object]) -> None:
    labels = next(o for o in everything if o["kind"] == "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_no_secret_lies_in_the_manifests(everything: list[Object]) -> None:
    assert not [o for o in everything if o["kind"] == "Secret"]


GRANTED = {
    "pixelis-deployer": {
        ("apps", "deployments", "get"),
        ("apps", "deployments", "patch"),
        ("apps", "replicasets", "list"),
        ("", "configmaps", "create"),
        ("", "configmaps", "list"),
        ("", "configmaps", "delete"),
        ("", "pods", "list"),
        ("", "pods/log", "get"),
    },
    "pixelis-trainer": {
        ("trainer.kubeflow.org", "trainjobs", "get"),
        ("trainer.kubeflow.org", "trainjobs", "create"),
        ("trainer.kubeflow.org", "trainjobs", "delete"),
        ("trainer.kubeflow.org", "trainingruntimes", "get"),
        ("", "pods", "list"),
        ("", "pods/log", "get"),
    },
}
"""Every right this project asks for; docs/cluster.md says what each is for."""


def test_rights_are_those_the_steps_use_and_no_more(everything: list[Object]) -> None:
    roles = [o for o in everything if o["kind"] in ("Role", "ClusterRole")]
    assert {o["kind"] for o in roles} == {"Role"}
    assert {o["metadata"]["name"] for o in roles} == set(GRANTED)
    text = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text().partition("What each right is for")[2]
    for role in roles:
        found = {
            (group, resource, verb)
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
        assert found == GRANTED[role["metadata"]["name"]]
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            changes = set(rule["verbs"]) - READERS - {"create"}
            made = set(rule["resources"]) <= {"trainjobs", "configmaps"}  # their names are made while running
            assert "resourceNames" in rule or not changes or made
            for resource in rule["resources"]:
                assert resource.split("/")[0].rstrip("s").lower() in text.lower(), f"{resource} is not explained"


def test_no_account_gets_the_clusters_rights(everything: list[Object]) -> None:
    assert not [o for o in everything if o["kind"] in ("ClusterRole", "ClusterRoleBinding")]
    for binding in (o for o in everything if o["kind"] == "RoleBinding"):
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "pipeline-runner", "namespace": "kubeflow"}]


def test_everything_is_denied_first(everything: list[Object]) -> None:
    denied = [o for o in everything if o["kind"] == "NetworkPolicy" and o["metadata"]["name"] == "default-deny"]
    assert denied
    for item in denied:
        assert item["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_no_policy_opens_to_everybody(everything: list[Object]) -> None:
    for item in (o for o in everything if o["kind"] == "NetworkPolicy"):
        for side, peer in (("ingress", "from"), ("egress", "to")):
            for rule in item["spec"].get(side, []):
                assert rule.get(peer), f"{item['metadata']['name']}: {side} without {peer} lets everybody through"
                assert rule.get("ports"), f"{item['metadata']['name']}: all ports are open"


def test_every_selector_finds_a_workload_and_every_port_a_name(everything: list[Object]) -> None:
    workloads = [o for o in everything if o["kind"] in ("Deployment", "StatefulSet")]
    labels = [o["spec"]["template"]["metadata"]["labels"] for o in workloads]
    ports = {p["name"] for o in everything for c in containers(o) for p in c.get("ports", [])}
    for item in everything:
        selectors = []
        if item["kind"] in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
            spec = item["spec"]
            selectors = [
                spec["selector"] if item["kind"] == "Service" else (spec.get("selector") or spec["podSelector"])
            ]
        for selector in selectors:
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= found.items() for found in labels), item["metadata"]["name"]
        if item["kind"] == "Service":
            assert {port["targetPort"] for port in item["spec"]["ports"]} <= ports


def test_the_learner_is_alone(everything: list[Object]) -> None:
    spec = service(everything)["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")


def test_every_reference_is_there_or_documented(everything: list[Object]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    known = {(o["kind"], o["metadata"]["name"]) for o in everything}
    for item in everything:
        spec = pod_spec(item)
        if spec is None:
            continue
        assert ("ServiceAccount", spec["serviceAccountName"]) in known
        for volume in spec.get("volumes", []):
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in known
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in known
            if "secret" in volume:
                assert f"| `{volume['secret']['secretName']}` |" in text
        for container in containers(item):
            for source in container.get("envFrom", []):
                assert f"| `{source['secretRef']['name']}` |" in text
            for variable in container.get("env", []):
                if "valueFrom" in variable:
                    assert f"| `{variable['valueFrom']['secretKeyRef']['name']}` |" in text


@pytest.mark.parametrize(("folder", "profile"), [("overlays/local", "twin"), ("overlays/gpu", "gpu-7b")])
def test_the_deployment_step_gives_up_before_the_controller_does(folder: str, profile: str) -> None:
    """Else a large model that is still loading in its own time would be taken back."""
    spec = service(render(ROOT / folder))["spec"]
    assert spec["progressDeadlineSeconds"] > compose(profile, (), {}).ttrl.ready_timeout_s

"""Where steps run, as compiled: a golden file a profile of what Kubernetes is asked for, and what it must hold."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.shared.runtime.errors import ConfigError
from pipelines.config import compose
from pipelines.training import build

GOLDEN = Path(__file__).parent / "golden"
PROFILES = ("twin", "gpu-3b", "gpu-7b")


@cache
def placement(profile: str) -> dict[str, Any]:
    """What each executor asks for: image, resources, environment, retries, and the Kubernetes section."""
    from google.protobuf import json_format

    pipeline: Any = build(compose(profile, ["placement.tag=golden"], {}))
    whole = json_format.MessageToDict(pipeline.pipeline_spec)
    spec = whole["deploymentSpec"]["executors"]
    retries = {
        f"exec-{name}": task["retryPolicy"]
        for graph in (whole["root"], *whole["components"].values())
        for name, task in graph.get("dag", {}).get("tasks", {}).items()
        if "retryPolicy" in task
    }
    kubernetes = json_format.MessageToDict(pipeline.platform_spec)["platforms"]["kubernetes"]["deploymentSpec"][
        "executors"
    ]
    found = {}
    for name, item in spec.items():
        container = item["container"]
        kept = {key: container[key] for key in ("image", "resources", "env") if key in container}
        found[name] = {"container": kept, "kubernetes": kubernetes[name], "retries": retries.pop(name, {})}
    assert not retries, f"retries of tasks without an executor: {sorted(retries)}"
    return found


@pytest.mark.parametrize("profile", PROFILES)
def test_the_placement_equals_the_golden_file(profile: str) -> None:
    """Renew with PIXELIS_RENEW_GOLDEN=1 and look at the difference."""
    golden = GOLDEN / f"placement-{profile}.yaml"
    if os.environ.get("PIXELIS_RENEW_GOLDEN") == "1":
        golden.write_text(yaml.safe_dump(placement(profile), sort_keys=True))
    assert placement(profile) == yaml.safe_load(golden.read_text())


@pytest.mark.parametrize("profile", PROFILES)
def test_an_accelerators_taint_is_tolerated_and_only_there(profile: str) -> None:
    for name, item in placement(profile).items():
        asked = item["container"]["resources"].get("accelerator", {}).get("resourceType")
        tolerated = [entry["key"] for entry in item["kubernetes"].get("tolerations", [])]
        assert tolerated == ([asked] if asked else []), name


def test_the_recordings_volume_reaches_every_step_that_reads_videos() -> None:
    for name in ("exec-recordings", "exec-clips", "exec-clips-join", "exec-clip-groups"):
        [mount] = placement("gpu-3b")[name]["kubernetes"]["pvcMount"]
        assert (mount["constant"], mount["mountPath"]) == ("openpack", "/data")
    assert not any("pvcMount" in item["kubernetes"] for item in placement("twin").values())


@pytest.mark.parametrize("profile", PROFILES)
def test_the_deployment_step_is_light_and_knows_where_it_is(profile: str) -> None:
    item = placement(profile)["exec-ttrl"]
    assert "accelerator" not in item["container"]["resources"]
    variables = {entry["name"]: entry["fieldPath"] for entry in item["kubernetes"]["fieldPathAsEnv"]}
    assert variables["PIXELIS_POD_NAMESPACE"] == "metadata.namespace"
    [image] = [entry["value"] for entry in item["container"]["env"] if entry["name"] == "PIXELIS_SERVE_IMAGE"]
    assert image == item["container"]["image"]
    [secret] = item["kubernetes"]["secretAsEnv"]
    assert (secret["secretName"], secret["optional"]) == ("pixelis-ttrl-client", True)


def test_nothing_of_the_cluster_leaks_into_other_steps() -> None:
    """The variable that chooses the cluster's launcher is a pod's field: a local run can never have it."""
    for name, item in placement("twin").items():
        assert not any(entry["name"] == "PIXELIS_POD_NAMESPACE" for entry in item["container"].get("env", [])), name


@pytest.mark.parametrize("key", ["nodes=1", "volumes={/data: 3.5}", "cpu=many", "memory=4GB"])
def test_a_wrong_placement_is_refused(key: str) -> None:
    name, _, value = key.partition("=")
    with pytest.raises(ConfigError, match="placement"):
        compose("twin", [f"placement.defaults.{name}={value}"], {})

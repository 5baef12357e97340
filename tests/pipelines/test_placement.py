"""Where steps run, as compiled: a golden file a profile of what Kubernetes is asked for, and what it must hold."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.shared.runtime.errors import ConfigError
from components.shared.runtime.train_job import VARIABLE, Nodes
from pipelines.config import compose
from pipelines.training import build

GOLDEN = Path(__file__).parent / "golden"
PROFILES = ("twin", "gpu-3b", "gpu-7b")


@cache
def placement(profile: str) -> dict[str, Any]:
    """What each executor of a profile asks for."""
    return executors(profile)


def executors(profile: str, *sets: str) -> dict[str, Any]:
    """What each executor asks for: image, resources, environment, retries, and the Kubernetes section."""
    from google.protobuf import json_format

    pipeline: Any = build(compose(profile, ["placement.tag=golden", *sets], {}))
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
    for name in ("exec-configure", "exec-recordings", "exec-clips", "exec-clips-join", "exec-clip-groups"):
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


@pytest.mark.parametrize("profile", PROFILES)
def test_a_step_that_fails_at_the_end_of_its_time_is_still_tried_again(profile: str) -> None:
    """The engine counts `backoffMaxDuration` from the first start: with its hour, no longer step had any retry."""
    for name, item in placement(profile).items():
        policy = item["retries"]
        span_s, timeout_s = (
            int(value.removesuffix("s"))
            for value in (policy["backoffMaxDuration"], item["kubernetes"]["activeDeadlineSeconds"])
        )
        assert span_s > (policy["maxRetryCount"] + 1) * timeout_s, name


@pytest.mark.parametrize("name", ["exec-gate", "exec-clip-groups"])
def test_a_task_that_only_reads_a_few_lines_holds_no_gpu_and_needs_no_torch(name: str) -> None:
    """The gate asked for a whole GPU node to read one JSON file, and a run waited for it."""
    for profile in PROFILES:
        item = placement(profile)[name]
        asked = item["container"]["resources"]
        assert (asked["resourceCpuLimit"], asked["resourceMemoryLimit"]) == ("1", "2Gi")
        assert "accelerator" not in asked and "emptyDirMounts" not in item["kubernetes"]
        assert item["container"]["image"].startswith("ghcr.io/pixelis/pixelis-data:")


def test_nothing_of_the_cluster_leaks_into_other_steps() -> None:
    """The variable that chooses the cluster's launcher is a pod's field: a local run can never have it."""
    for name, item in placement("twin").items():
        assert not any(entry["name"] == "PIXELIS_POD_NAMESPACE" for entry in item["container"].get("env", [])), name


def test_a_step_on_several_nodes_is_a_small_launcher_that_knows_them() -> None:
    """The two nodes have what the step would have had; the step itself asks for next to nothing."""
    several = executors("gpu-3b", "placement.steps.sft.num_nodes=2", "placement.steps.sft.accelerator_count=4")
    alone, launcher = placement("gpu-3b")["exec-sft"], several["exec-sft"]
    assert launcher["container"]["image"].startswith("ghcr.io/pixelis/pixelis-data:")
    assert launcher["container"]["resources"]["resourceCpuLimit"] == "1"
    assert "accelerator" not in launcher["container"]["resources"]
    assert "tolerations" not in launcher["kubernetes"]
    assert int(launcher["kubernetes"]["activeDeadlineSeconds"]) > int(alone["kubernetes"]["activeDeadlineSeconds"])
    variables = {entry["name"]: entry["value"] for entry in launcher["container"]["env"]}
    found = Nodes.parse(variables[VARIABLE], name=VARIABLE)
    assert (found.num_nodes, found.processes, found.accelerator, found.shm) == (2, 4, "nvidia.com/gpu", "8Gi")
    assert (found.image, found.cpu, found.memory) == (alone["container"]["image"], "4", "24Gi")
    assert (found.exchange, found.timeout_s) == ("minio://mlpipeline/pixelis-exchange", 86400)
    unchanged = {name: item for name, item in several.items() if name != "exec-sft"}
    assert unchanged == {name: item for name, item in placement("gpu-3b").items() if name != "exec-sft"}


def test_checkpoints_of_training_outlive_the_pod() -> None:
    for name, item in placement("gpu-3b").items():
        variables = {entry["name"] for entry in item["container"].get("env", [])}
        secrets = {entry["secretName"] for entry in item["kubernetes"].get("secretAsEnv", [])}
        trains = name in ("exec-base-model", "exec-alignment", "exec-sft", "exec-rft")
        assert ("PIXELIS_WORK_URI" in variables, "pixelis-exchange" in secrets) == (trains, trains), name


def test_a_steps_keys_are_laid_over_the_defaults() -> None:
    section = compose("twin", ["placement.defaults.timeout_s=999", "placement.steps.sft.cpu='7'"], {}).placement
    assert (section.resources("sft").cpu, section.resources("sft").timeout_s) == ("7", 999)
    assert section.resources("trajectories").cpu == "2"


@pytest.mark.parametrize(
    "sets",
    [
        ["placement.steps.sfd.memory=7Gi"],
        ["placement.steps.clips.num_nodes=2", "placement.exchange=s3://b/x"],
        ["placement.steps.sft.num_nodes=2"],
        ["placement.defaults.num_nodes=2", "placement.exchange=s3://b/x"],
        ["placement.steps.sft.num_nodes=2", "placement.exchange=s3://b/x", "placement.steps.sft.volumes={/a: b}"],
        ["placement.exchange=/mnt/x"],
    ],
    ids=["no such step", "a step that cannot", "no exchange", "every step", "volumes", "a path"],
)
def test_nodes_that_could_not_work_are_refused(sets: list[str]) -> None:
    with pytest.raises(ConfigError, match="placement"):
        compose("twin", sets, {})


@pytest.mark.parametrize("key", ["nodes=1", "volumes={/data: 3.5}", "cpu=many", "memory=4GB"])
def test_a_wrong_placement_is_refused(key: str) -> None:
    name, _, value = key.partition("=")
    with pytest.raises(ConfigError, match="placement"):
        compose("twin", [f"placement.defaults.{name}={value}"], {})


@pytest.mark.parametrize(
    "key",
    ["steps.sft.accelerator=nvidia.com/gpu", "steps.sft.accelerator_count=1", "defaults.accelerator=nvidia.com/gpu"],
)
def test_an_accelerator_without_its_number_is_refused(key: str) -> None:
    """Kubernetes would be asked for zero of them, and the step would train on the processor."""
    with pytest.raises(ConfigError, match="both or neither"):
        compose("twin", [f"placement.{key}"], {})

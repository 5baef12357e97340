"""The compiled pipeline: equals the golden file, loads in kfp, and has no placeholder in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, components

from pipelines.config import compose
from pipelines.steps import STEPS
from pipelines.training import build

GOLDEN = Path(__file__).parent / "golden"


def compiled(profile: str, path: Path) -> list[Any]:
    config = compose(profile, ["placement.tag=golden"], {})
    compiler.Compiler().compile(build(config), str(path))
    return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("profile", ["twin", "gpu-3b", "gpu-7b"])
def test_the_compiled_pipeline_equals_the_golden_file(profile: str, tmp_path: Path) -> None:
    """A difference is a change of what users submit: look at it, then renew with PIXELIS_RENEW_GOLDEN=1."""
    found = compiled(profile, tmp_path / "pipeline.yaml")
    golden = GOLDEN / f"{profile}.yaml"
    if os.environ.get("PIXELIS_RENEW_GOLDEN") == "1":
        golden.write_text((tmp_path / "pipeline.yaml").read_text())
    assert found == list(yaml.safe_load_all(golden.read_text()))


def test_the_compiled_pipeline_loads_in_kfp() -> None:
    loaded = components.load_component_from_file(str(GOLDEN / "twin.yaml"))
    assert loaded.name == "pixelis-training-twin"
    assert set(loaded.component_spec.inputs) == {"seed", "source", "data_uri", "max_clips", "deploy", "overrides"}


@pytest.mark.parametrize("profile", ["twin", "gpu-3b", "gpu-7b"])
def test_every_task_has_a_real_image_and_resources(profile: str, tmp_path: Path) -> None:
    spec, platform = compiled(profile, tmp_path / "pipeline.yaml")
    for name, executor in spec["deploymentSpec"]["executors"].items():
        container = executor["container"]
        variant = "cpu" if profile == "twin" else "gpu"
        assert container["image"].startswith("ghcr.io/pixelis/pixelis-"), name
        assert container["image"].endswith(f":golden-{variant}"), name
        assert {"resourceCpuLimit", "resourceMemoryLimit"} <= set(container["resources"]), name
        assert "pip install" not in " ".join(container["command"]), name
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(kubernetes) == set(spec["deploymentSpec"]["executors"])
    assert all(item["activeDeadlineSeconds"] for item in kubernetes.values())


def test_gpu_steps_ask_for_a_gpu(tmp_path: Path) -> None:
    spec, _ = compiled("gpu-3b", tmp_path / "pipeline.yaml")
    for step in ("base-model", "sft", "rft", "evaluation"):
        resources = spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"]["resources"]
        assert resources["accelerator"]["resourceType"] == "nvidia.com/gpu"


def test_only_steps_that_must_always_run_are_uncached(tmp_path: Path) -> None:
    spec, _ = compiled("twin", tmp_path / "pipeline.yaml")
    tasks: dict[str, Any] = dict(spec["root"]["dag"]["tasks"])
    for component in spec["components"].values():
        tasks |= component.get("dag", {}).get("tasks", {})
    uncached = {name for name, task in tasks.items() if task.get("cachingOptions") == {}}
    executed = {name for name in uncached if not name.startswith(("exit-handler", "for-loop", "condition"))}
    assert executed == {"configure", "evaluation", "gate", "promotion", "ttrl", "finish"}


@pytest.mark.parametrize("until", [step.name for step in STEPS if step.name != "finish"])
def test_the_pipeline_compiles_up_to_every_step(until: str, tmp_path: Path) -> None:
    compiler.Compiler().compile(build(compose("twin", (), {}), until=until), str(tmp_path / "pipeline.yaml"))

"""The compiled pipeline: its DAG equals the golden file, its constants the configuration; it loads in kfp.

Three things hold what users submit: `golden/dag.yaml` (tasks, their order, what feeds what, conditions, caching, the
run form; the same for every profile), `golden/placement-<profile>.yaml` (test_placement.py), and the configuration,
which is compared with what was composed. So another default of a step changes no golden file.
"""

from __future__ import annotations

import inspect
import json
import os
import tempfile
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, components

from pipelines.config import compose, sections
from pipelines.steps import SECTIONS, STEPS
from pipelines.training import DESTINATIONS, build

GOLDEN = Path(__file__).parent / "golden"
PROFILES = ("twin", "gpu-3b", "gpu-7b")
ELSEWHERE = {"retryPolicy", "constant", "defaultValue"}
"""What the DAG's golden file leaves to the placement's golden files and to the comparison with the configuration."""


def compiled(profile: str, path: Path) -> list[Any]:
    config = compose(profile, ["placement.tag=golden"], {})
    compiler.Compiler().compile(build(config), str(path))
    return list(yaml.safe_load_all(path.read_text()))


@cache
def twin() -> Any:
    """The twin profile's pipeline spec, compiled once for the tests that only read it."""
    with tempfile.TemporaryDirectory() as folder:
        return compiled("twin", Path(folder) / "pipeline.yaml")[0]


def without(value: Any, keys: set[str]) -> Any:
    """A copy without these keys, at any depth."""
    if isinstance(value, dict):
        return {key: without(item, keys) for key, item in value.items() if key not in keys}
    return [without(item, keys) for item in value] if isinstance(value, list) else value


def dag(spec: dict[str, Any]) -> dict[str, Any]:
    """The pipeline as a graph: root and components, with the run form's texts and without the components' own."""
    return {
        "root": without(spec["root"], ELSEWHERE),
        "components": without(spec["components"], ELSEWHERE | {"description"}),
        "executors": sorted(spec["deploymentSpec"]["executors"]),
    }


def tasks(spec: dict[str, Any]) -> dict[str, Any]:
    """Every task by name, those of loops, conditions and the exit handler included."""
    graphs = [spec["root"]["dag"], *(item["dag"] for item in spec["components"].values() if "dag" in item)]
    return {name: task for graph in graphs for name, task in graph["tasks"].items()}


@pytest.mark.parametrize("profile", PROFILES)
def test_the_dag_equals_the_golden_file(profile: str, tmp_path: Path) -> None:
    """A difference is a change of what users submit: look at it, then renew with PIXELIS_RENEW_GOLDEN=1."""
    found = dag(compiled(profile, tmp_path / "pipeline.yaml")[0])
    golden = GOLDEN / "dag.yaml"
    if os.environ.get("PIXELIS_RENEW_GOLDEN") == "1" and profile == PROFILES[0]:
        golden.write_text(yaml.safe_dump(found, sort_keys=True))
    assert found == yaml.safe_load(golden.read_text())


@pytest.mark.parametrize("profile", PROFILES)
def test_the_constants_are_the_composed_configuration(profile: str, tmp_path: Path) -> None:
    spec, _ = compiled(profile, tmp_path / "pipeline.yaml")
    config = compose(profile, (), {})
    found = {
        (name, key): source["runtimeValue"]["constant"]
        for name, task in tasks(spec).items()
        for key, source in task.get("inputs", {}).get("parameters", {}).items()
        if "runtimeValue" in source
    }
    assert found.pop(("finish", "profile")) == profile
    assert json.loads(found.pop(("finish", "steps"))) == [step.name for step in STEPS]
    assert json.loads(found.pop(("configure", "classes"))) == SECTIONS
    assert json.loads(found.pop(("configure", "profile"))) == sections(config)
    assert found == {}, "a constant that no line above compares"
    form = {key: item["defaultValue"] for key, item in spec["root"]["inputDefinitions"]["parameters"].items()}
    assert form.pop("overrides") == "{}"
    hub = config.base_model.hub
    assert form.pop("base_weights") == ("tiny" if profile == "twin" else f"{hub.repo}@{hub.revision}")
    assert form == {key: attrgetter(place)(config) for key, place in DESTINATIONS.items()}
    assert spec["pipelineInfo"]["name"] == f"pixelis-training-{profile}"


@pytest.mark.parametrize("policy", ["prefix", "prefix_trm", "trm_decoder"])
def test_a_policy_that_sees_through_the_aligned_encoder_waits_for_it(policy: str, tmp_path: Path) -> None:
    config = compose("twin", ["placement.tag=golden", f"base_model.policy={policy}"], {})
    compiler.Compiler().compile(build(config), str(tmp_path / "pipeline.yaml"))
    made = tasks(next(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text())))
    given = made["base-model"]["inputs"]["artifacts"]["encoder"]["taskOutputArtifact"]
    assert given == {"outputArtifactKey": "encoder", "producerTask": "alignment"}
    assert "alignment" in made["base-model"]["dependentTasks"]
    assert "base-model" not in made["alignment"]["dependentTasks"]
    assert "encoder" not in tasks(twin())["base-model"]["inputs"]["artifacts"]
    compiler.Compiler().compile(build(config, "base_model"), str(tmp_path / "until.yaml"))
    until = tasks(next(yaml.safe_load_all((tmp_path / "until.yaml").read_text())))
    assert {"alignment", "base-model"} <= until.keys()
    assert "sft" not in until


def test_every_executor_runs_its_components_own_code() -> None:
    """The golden file leaves the embedded source out; it must be what stands in component.py, whole."""
    from pipelines import training

    executors = twin()["deploymentSpec"]["executors"]
    for label, executor in executors.items():
        name = label.removeprefix("exec-").replace("-", "_")
        container = executor["container"]
        assert container["args"][-1] == name
        body = inspect.getsource(getattr(training, name).python_func).partition("def ")[2]
        assert body.strip() in "\n".join(container["command"]), name


@pytest.mark.parametrize("profile", PROFILES)
def test_the_compiled_pipeline_loads_in_kfp(profile: str, tmp_path: Path) -> None:
    compiled(profile, tmp_path / "pipeline.yaml")
    loaded = components.load_component_from_file(str(tmp_path / "pipeline.yaml"))
    assert loaded.name == f"pixelis-training-{profile}"
    assert set(loaded.component_spec.inputs) == {*DESTINATIONS, "base_weights", "overrides"}


def test_every_field_of_the_form_says_what_it_is() -> None:
    fields = twin()["root"]["inputDefinitions"]["parameters"]
    assert all(item["description"].endswith(".") and "defaultValue" in item for item in fields.values()), fields


def test_a_changed_dag_is_told_from_the_golden_file() -> None:
    """Each of these has been a slip somewhere: another producer, a task cached that must not be, a wrong condition."""
    golden = yaml.safe_load((GOLDEN / "dag.yaml").read_text())
    for change in (
        lambda spec: tasks(spec)["rft"]["inputs"]["artifacts"]["adapter"].update(
            taskOutputArtifact={"outputArtifactKey": "model", "producerTask": "base-model"}
        ),
        lambda spec: tasks(spec)["evaluation"].update(cachingOptions={"enableCache": True}),
        lambda spec: tasks(spec)["condition-3"]["triggerPolicy"].update(condition="true"),
        lambda spec: tasks(spec)["sft"]["dependentTasks"].remove("base-model"),
        lambda spec: spec["root"]["inputDefinitions"]["parameters"]["seed"].update(parameterType="STRING"),
    ):
        spec = json.loads(json.dumps(twin()))
        assert dag(spec) == golden
        change(spec)
        assert dag(spec) != golden


@pytest.mark.parametrize("profile", PROFILES)
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
    executors = spec["deploymentSpec"]["executors"]
    asking = {
        name.removeprefix("exec-"): part["container"]["resources"]["accelerator"]["resourceType"]
        for name, part in executors.items()
        if "accelerator" in part.get("container", {}).get("resources", {})
    }
    steps = ("alignment", "sft", "rft", "evaluation")  # base_model fetches files, the others never use one
    assert asking == dict.fromkeys(steps, "nvidia.com/gpu")


def test_only_steps_that_must_always_run_are_uncached() -> None:
    uncached = {name for name, task in tasks(twin()).items() if task.get("cachingOptions") == {}}
    executed = {name for name in uncached if not name.startswith(("exit-handler", "for-loop", "condition"))}
    assert executed == {"configure", "evaluation", "gate", "promotion", "ttrl", "finish"}


@pytest.mark.parametrize("until", [step.name for step in STEPS if step.name != "finish"])
def test_the_pipeline_compiles_up_to_every_step(until: str, tmp_path: Path) -> None:
    compiler.Compiler().compile(build(compose("twin", (), {}), until=until), str(tmp_path / "pipeline.yaml"))

"""The pipeline as Kubernetes resources: valid by their definitions, named by content, the pipeline that is compiled."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from components.shared.runtime.errors import ConfigError
from pipelines.cli import app
from pipelines.cluster import compile_to
from pipelines.gitops import resources

SCHEMAS = Path(__file__).parents[1] / "manifests" / "schemas"


@pytest.fixture(autouse=True)
def commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXELIS_GIT_SHA", "b" * 40)


def test_both_resources_are_valid_and_hold_the_compiled_pipeline(tmp_path: Path) -> None:
    pipeline, version = resources("twin", (), "kubeflow")
    for item in (pipeline, version):
        schema = json.loads((SCHEMAS / f"{item['kind'].lower()}.json").read_text())
        jsonschema.Draft202012Validator(schema).validate(item)
        assert item["metadata"]["namespace"] == "kubeflow"
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == "pixelis-training-twin"
    compile_to(tmp_path / "p.yaml", "twin")
    spec, platform = yaml.safe_load_all((tmp_path / "p.yaml").read_text())
    assert version["spec"]["pipelineSpec"] == spec
    assert version["spec"]["platformSpec"] == platform


def test_the_versions_name_follows_its_content() -> None:
    names = [resources("twin", sets, "kubeflow")[1]["metadata"]["name"] for sets in ((), (), ("sft.seed=4",))]
    assert names[0] == names[1] != names[2]
    assert re.fullmatch(r"pixelis-training-twin-b{12}-[0-9a-f]{8}", names[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--namespace", "Team A"), "'Team A' is no name"), (("--output", "."), "is a folder; nothing was written")],
)
def test_a_wrong_command_is_refused_by_name(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(app, ["gitops", *arguments], catch_exceptions=False)

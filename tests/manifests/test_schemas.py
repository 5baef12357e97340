"""Every rendered object validates strictly: Kubernetes' own against its JSON schemas, custom ones against schemas/."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from kubeflow_trainer_api import models
from kubernetes_validate import SchemaNotFoundError, ValidationError

VERSIONS = ("1.32", "1.34", "1.37")
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "schemas").glob("*.json")}


TRAINER = {"TrainJob": models.TrainerV1alpha1TrainJob, "TrainingRuntime": models.TrainerV1alpha1TrainingRuntime}


def check_trainer(item: dict[str, Any]) -> None:
    """Raises where the generated type drops or refuses a field."""
    known = TRAINER[item["kind"]].from_dict(copy.deepcopy(item))
    back = json.loads(json.dumps(known.to_dict(), default=str)) if known else None
    if back != item:
        raise jsonschema.ValidationError(f"{item['kind']}/{item['metadata']['name']}: {back} is what is left of it")


def check(item: dict[str, Any], version: str) -> None:
    """Raises where the object has an unknown field, a wrong type, or lacks a required one."""
    try:
        kubernetes_validate.validate(item, version, strict=True)
    except SchemaNotFoundError:
        if item["kind"] in TRAINER:
            check_trainer(item)
            return
        jsonschema.Draft202012Validator(SCHEMAS[item["kind"].lower()]).validate(item)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_validates_strictly(objects: list[dict[str, Any]], version: str) -> None:
    assert objects
    for item in objects:
        check(item, version)


def test_the_schemas_refuse_a_misspelt_field(everything: list[dict[str, Any]]) -> None:
    """The check itself: one wrong field anywhere in a spec is found in every kind of object that has one."""
    kinds = {item["kind"]: item for item in everything if "spec" in item}
    assert {
        "Deployment",
        "StatefulSet",
        "NetworkPolicy",
        "ServiceMonitor",
        "PrometheusRule",
        "HTTPRoute",
        "TrainingRuntime",
    } <= set(kinds)
    for item in kinds.values():
        broken = copy.deepcopy(item)
        broken["spec"]["noSuchField"] = 1
        with pytest.raises((ValidationError, jsonschema.ValidationError)):
            check(broken, VERSIONS[0])


def test_a_deep_misspelling_is_found(everything: list[dict[str, Any]]) -> None:
    service = copy.deepcopy(next(o for o in everything if o["kind"] == "Deployment"))
    service["spec"]["template"]["spec"]["containers"][0]["livenessProbes"] = {}
    with pytest.raises(ValidationError):
        check(service, VERSIONS[0])


def test_a_misspelling_deep_in_a_runtime_is_found(everything: list[dict[str, Any]]) -> None:
    runtime = copy.deepcopy(next(o for o in everything if o["kind"] == "TrainingRuntime"))
    [job] = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    job["template"]["spec"]["template"]["spec"]["securityContext"]["runAsNonroot"] = True
    with pytest.raises(jsonschema.ValidationError):
        check(runtime, VERSIONS[0])


def test_every_schema_names_its_source_commit_and_licence() -> None:
    for name, schema in SCHEMAS.items():
        assert "Apache-2.0" in schema["$comment"], name
        assert any(mark in schema["$comment"] for mark in (" at ", " v1.0.0 ")), name

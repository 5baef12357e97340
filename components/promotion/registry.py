"""The model registry: a version with its lineage, and the alias that says which version serves.

The alias is moved last, so a fault before that leaves the old champion in place. The model's folder is not touched: its
digest, by which the service names what it serves, is the one recorded; the version stands in the record.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from components.shared.runtime import tracking
from components.shared.runtime.artifacts import read_json
from components.shared.runtime.records import StepRecord, write_artifact_record
from components.shared.runtime.report import Report

log = logging.getLogger(__name__)
KEPT_FILES = ("metrics.json", "predictions.jsonl", "gate.json")


def register(model: Path, evaluation: Path, record: StepRecord, report: Report) -> None:
    """Register the model folder as a version, tag it, move the alias.

    Args:
        model: The promoted model's folder, at its final place.
        evaluation: The evaluation artifact; its predictions are kept with the version for the next comparison.
        record: The promotion's step record; receives the version among its facts.
        report: The promotion's report.
    """
    api = tracking.client()
    facts = read_json(model / "promotion.json")
    run = tracking.parent_run(api, record.run_id)
    for name in KEPT_FILES:
        api.log_artifact(run, str(evaluation / name), "evaluation")
    ensure_model(api, facts["name"])
    tags = {
        "candidate": facts["candidate"],
        "provenance": facts["provenance"],
        "base_digest": facts["base_digest"],
        "adapter_digest": facts["adapter_digest"],
        "model_digest": record.outputs["model"].sha256,
        "pixelis.run_id": record.run_id,
        "git_sha": tracking.git_sha(),
        "gate": "; ".join(facts["gate"]["reasons"])[:4000],
    } | {f"lineage.{name}": item["sha256"] for name, item in facts["lineage"].items()}
    version = api.create_model_version(
        facts["name"], source=str(model), run_id=run, tags=tags, description=report.markdown[:4000]
    )
    move_alias(api, facts["name"], facts["alias"], version.version, record.run_id)
    record.facts["version"] = report.facts["version"] = str(version.version)
    report.metrics["registry_version"] = float(version.version)
    write_artifact_record(model, record, "model")
    log.info("registered %s version %s, alias %s", facts["name"], version.version, facts["alias"])


def ensure_model(api: Any, name: str) -> None:
    """Create the registered model where it is missing."""
    from mlflow.exceptions import MlflowException

    try:
        api.create_registered_model(
            name,
            description="Models that the pipeline's gate promoted. The alias marks the one that is served; a version's "
            "tags name the recordings, shards, base and adapters it was made of, by digest.",
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def move_alias(api: Any, name: str, alias: str, version: str, run_id: str) -> None:
    """Point the alias at a version; both versions say who moved it and when."""
    old = tracking.champion(name, alias)
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    api.set_model_version_tag(name, version, f"alias.{alias}", f"set by run {run_id} at {moment}")
    api.set_registered_model_alias(name, alias, version)
    if old is not None and str(old.version) != str(version):
        api.set_model_version_tag(
            name, old.version, f"alias.{alias}", f"moved to version {version} by run {run_id} at {moment}"
        )

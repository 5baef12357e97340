"""MLflow: one parent run a pipeline run, one child a step, datasets by digest, and the champion's place.

A step's figures reach the tracking server after its work; a server that fails then costs the figures there, never the
work: the caller records `TrackingFault`. A server that is down before a run starts is refused by the command line.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.shared.runtime.artifacts import read_json
from components.shared.runtime.errors import EnvironmentFault
from components.shared.runtime.records import ArtifactRecord, StepRecord
from components.shared.runtime.report import Report

EXPERIMENT = "pixelis"
KIND = "custom_model_development"  # opens the page on runs and models rather than on traces
RECORD_FILE = "step_record.json"
STEP_RUN = "PIXELIS_MLFLOW_STEP_RUN"
"""Environment variable with the run of the step under way."""
DESCRIPTION = "mlflow.note.content"
"""The tag that MLflow's page shows as a run's description."""
LONGEST_TAG = 5000
DIGEST_LENGTH = 36  # MLflow refuses longer dataset digests; the whole sha256 goes into a tag
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")


def client() -> Any:
    """An MlflowClient on MLFLOW_TRACKING_URI."""
    from mlflow import MlflowClient

    return MlflowClient()


def experiment_id(mlflow_client: Any) -> str:
    """The project's experiment, made where missing."""
    from mlflow.exceptions import MlflowException

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = mlflow_client.get_experiment_by_name(name)
    if found:
        return found.experiment_id
    try:
        return mlflow_client.create_experiment(
            name, artifact_location=os.environ.get("PIXELIS_MLFLOW_ARTIFACTS"), tags={"mlflow.experimentKind": KIND}
        )
    except MlflowException:  # another step was first
        return mlflow_client.get_experiment_by_name(name).experiment_id


def parent_run(mlflow_client: Any, run: str, tags: dict[str, str] | None = None) -> str:
    """The MLflow run of a pipeline run: found by its tag, made where missing; returns its id."""
    experiment = experiment_id(mlflow_client)
    query = f"tags.`pixelis.run_id` = '{run}' AND tags.`pixelis.kind` = 'pipeline'"
    found = mlflow_client.search_runs([experiment], query, max_results=1)
    if found:
        return found[0].info.run_id
    base = {"pixelis.run_id": run, "pixelis.kind": "pipeline", **source_tags(), **(tags or {})}
    return mlflow_client.create_run(experiment, tags=base, run_name=run).info.run_id


def open_step(record: StepRecord) -> str:
    """The child run of a step that begins: the one that a killed attempt left open, else a new one; returns its id."""
    api = client()
    tags = {
        "pixelis.run_id": record.run_id,
        "pixelis.kind": "step",
        "pixelis.step": record.step,
        "pixelis.config_digest": record.config_digest,
    }
    query = " AND ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    unfinished = f"{query} AND attributes.status != 'FINISHED'"
    if found := api.search_runs([experiment_id(api)], unfinished, max_results=1):
        api.update_run(found[0].info.run_id, status="RUNNING")
        return found[0].info.run_id
    tags |= {"mlflow.parentRunId": parent_run(api, record.run_id), "git_sha": git_sha(), **source_tags()}
    run = api.create_run(experiment_id(api), tags=tags, run_name=record.step, start_time=int(record.started * 1000))
    return run.info.run_id


def source_tags() -> dict[str, str]:
    """What MLflow's page shows as a run's source."""
    return {"mlflow.source.name": "pixelis", "mlflow.source.type": "LOCAL", "mlflow.source.git.commit": git_sha()}


def log_step(record: StepRecord, report: Report, pictures: Path | None, page: str) -> str:
    """Write one step's record into its child run; returns the child's id."""
    from mlflow.entities import Metric, Param, RunTag

    api = client()
    child = record.mlflow_run_id or open_step(record)
    api.set_tag(child, "pixelis.provenance", report.provenance)
    stamp = int((record.started + record.seconds) * 1000)
    metrics = [Metric(name, float(value), stamp, 0) for name, value in report.metrics.items()]
    metrics += [Metric("seconds", record.seconds, stamp, 0), Metric("peak_rss_bytes", record.peak_rss_bytes, stamp, 0)]
    for name, points in report.curves.items():
        sent = {item.step for item in api.get_metric_history(child, f"curve.{name}")}
        metrics += [Metric(f"curve.{name}", float(y), stamp, round(x)) for x, y in points if round(x) not in sent]
    params = [Param(key, str(value)[:500]) for key, value in flatten(record.config).items()]
    for start in range(0, len(metrics), 900):
        api.log_batch(child, metrics=metrics[start : start + 900])
    for start in range(0, len(params), 90):
        api.log_batch(child, params=params[start : start + 90])
    digests = [RunTag(f"pixelis.output.{name}.sha256", item.sha256) for name, item in record.outputs.items()]
    api.log_batch(child, tags=digests[:90])
    log_datasets(api, child, record)
    api.log_dict(child, asdict(record), RECORD_FILE)
    api.log_text(child, page, "report.html")
    if report.markdown:
        api.log_text(child, report.markdown, "report.md")
        api.set_tag(child, DESCRIPTION, report.markdown[:LONGEST_TAG])
    if pictures and pictures.is_dir():
        api.log_artifacts(child, str(pictures), "pictures")
    api.set_terminated(child, "FINISHED", end_time=stamp)
    return child


def log_failure(record: StepRecord) -> str:
    """A child run for a step that failed or was stopped, with its cause as a tag."""
    api = client()
    child = record.mlflow_run_id or open_step(record)
    api.set_tag(child, "pixelis.error", record.error[:4000])
    api.log_dict(child, asdict(record), RECORD_FILE)
    api.set_terminated(child, "KILLED" if record.status == "STOPPED" else "FAILED")
    return child


def load_record(api: Any, child: str) -> dict[str, Any] | None:
    """The step record kept with a child run, None for a child without one."""
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as folder:
        try:
            return json.loads(Path(api.download_artifacts(child, RECORD_FILE, folder)).read_text())
        except (MlflowException, OSError):
            return None


def log_datasets(api: Any, child: str, record: StepRecord) -> None:
    """Inputs and outputs as MLflow datasets: one step's output has the digest of the next one's input."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    def entry(name: str, item: ArtifactRecord, context: str) -> DatasetInput:
        dataset = Dataset(
            name=name, digest=item.sha256[:DIGEST_LENGTH], source_type="local", source=f'{{"uri":"{item.uri}"}}'
        )
        tags = [InputTag("mlflow.data.context", context), InputTag("sha256", item.sha256)]
        return DatasetInput(dataset=dataset, tags=tags)

    inputs = [entry(name, item, "input") for name, items in record.inputs.items() for item in items]
    outputs = [entry(name, item, "output") for name, item in record.outputs.items()]
    if inputs or outputs:
        api.log_inputs(child, datasets=inputs + outputs)


def git_sha() -> str:
    """The commit of the code that runs, handed down by the command line or baked into the image."""
    return os.environ.get("PIXELIS_GIT_SHA", "unknown")


def flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one level with dotted keys."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict):
            flat |= flatten(item, f"{name}.")
        else:
            flat[name] = item
    return flat


def champion(model_name: str, alias: str) -> Any | None:
    """The registered version that holds the alias, None where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return client().get_model_version_by_alias(model_name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def registered_name(model_name: str, provenance: str) -> str:
    """The name a model is registered under: synthetic models have one of their own."""
    return model_name if provenance == "real" else f"{model_name}-twin"


def champion_evaluation(promotion: Mapping[str, Any], recordings: Path, target: Path) -> Path | None:
    """Fetch the reigning champion's evaluation (predictions and figures) into `target`.

    Args:
        promotion: The promotion section (`model_name`, `alias`).
        recordings: The run's recordings artifact: its provenance decides under which name a champion is looked for.
        target: Folder that receives the files.

    Returns:
        The folder, None where there is no champion.

    Raises:
        EnvironmentFault: the tracking server does not answer, so nobody knows whether there is a champion.
    """
    from mlflow.exceptions import MlflowException

    provenance = read_json(recordings / "manifest.json")["provenance"]
    name = registered_name(promotion["model_name"], provenance)
    try:
        version = champion(name, promotion["alias"])
        if version is None or not version.run_id:
            return None
        target.mkdir(parents=True, exist_ok=True)
        return Path(client().download_artifacts(version.run_id, "evaluation", str(target)))
    except (MlflowException, OSError) as error:
        raise EnvironmentFault(
            f"the evaluation of {name}@{promotion['alias']} cannot be fetched from MLflow ({type(error).__name__}: "
            f"{str(error)[:300]}); without it a candidate may replace a better champion, so nothing was judged.",
            remedy="Start the tracking server (MLFLOW_TRACKING_URI), then run again with --resume.",
        ) from error

"""The exit step: what happened to every step, as `summary.json` for programs and `summary.md` for people.

Runs on success and on failure. Locally the records stand in the run's directory; on a cluster they are read back from
the tracking server. A step without a record of this run that some later step used, or that the local runner reports as
a cache hit, is CACHED and its figures are those of the run that made it.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.finish.markdown import render_summary
from components.shared.runtime import records, tracking
from components.shared.runtime.artifacts import RECORD, atomic_write, read_json, write_json
from components.shared.runtime.errors import ArtifactError
from components.shared.runtime.logs import configure_logging
from components.shared.runtime.records import StepRecord

log = logging.getLogger(__name__)
CACHE_HITS = "cache_hits.json"


def finish_run(steps: list[str], profile: str, *, state: str, error: str = "") -> dict[str, Any]:
    """Write the run's summary and close its tracking run.

    Args:
        steps: Names of the pipeline's steps in order.
        profile: The profile the run was made for.
        state: KFP's final state: SUCCEEDED or FAILED; STOPPED when a person interrupted the run.
        error: KFP's own message, empty locally.

    Returns:
        The summary as written.
    """
    run = records.run_id()
    configure_logging(trace=run, component="finish")
    directory = records.run_directory()
    found = records.load_records(directory) if directory else tracked_records(run)
    cached = cached_records(found, cache_hits(directory) if directory else [])
    summary = summarize(steps, profile, found, cached, state=state, error=error)
    text = render_summary(summary)
    if directory:
        write_json(directory / "summary.json", summary)
        atomic_write(directory / "summary.md", text)
    try:
        close_tracking(run, summary, text, cached | found)
    except Exception as fault:  # the summary on disk is already written
        log.warning("the summary did not reach MLflow: %s", fault)
    return summary


def cache_hits(directory: Path) -> list[str]:
    """URIs of the outputs that the local runner took from its cache in this run."""
    path = directory / CACHE_HITS
    return read_json(path) if path.is_file() else []


def tracked_records(run: str) -> dict[str, StepRecord]:
    """Records of a cluster run, from the step records kept with its tracking runs."""
    api = tracking.client()
    query = f"tags.`pixelis.run_id` = '{run}' AND tags.`pixelis.kind` = 'step'"
    found = {}
    for item in api.search_runs([tracking.experiment_id(api)], query, max_results=200, order_by=["start_time ASC"]):
        value = tracking.load_record(api, item.info.run_id)
        if value:
            record = records.load_record(value)
            found[record.step] = record
    return found


def cached_records(found: dict[str, StepRecord], hits: list[str]) -> dict[str, StepRecord]:
    """Records of steps whose artifacts this run used without running them, followed backwards through the artifacts."""
    cached: dict[str, StepRecord] = {}
    queue = [item.uri for record in found.values() for items in record.inputs.values() for item in items] + hits
    seen: set[str] = set()
    while queue:
        uri = queue.pop()
        path = Path(uri) / RECORD
        if uri in seen or not path.is_file():
            continue
        seen.add(uri)
        try:
            made_by = records.load_record(read_json(path)["made_by"])
        except (ArtifactError, KeyError, TypeError) as fault:
            log.warning("%s has no readable record: %s", uri, fault)
            continue
        if made_by.step not in found:
            cached[made_by.step] = made_by
        queue += [item.uri for items in made_by.inputs.values() for item in items]
    return cached


def summarize(
    steps: list[str],
    profile: str,
    found: dict[str, StepRecord],
    cached: dict[str, StepRecord],
    *,
    state: str,
    error: str,
) -> dict[str, Any]:
    """The summary's content."""
    rows = []
    for step in steps:
        if step == "finish":
            continue
        members = sorted(name for name in (*found, *cached) if name == step or name.startswith(f"{step}."))
        gathered = [describe_step(name, found, cached, state) for name in sorted(members, key=lambda n: (n == step, n))]
        rows += gathered or [skipped(step)]
    failed = [row["name"] for row in rows if row["status"] == "FAILED"]
    status = "FAILED" if failed or state == "FAILED" else state
    everything = cached | found
    gate = gate_of(everything.get("evaluation")) if "gate" in found or "evaluation" in found else None
    parent = ""
    try:
        parent = tracking.parent_run(tracking.client(), records.run_id())
    except Exception as fault:
        log.warning("no tracking run: %s", fault)
    return {
        "run_id": records.run_id(),
        "profile": profile,
        "seed": seed_of(everything),
        "git_sha": tracking.git_sha(),
        "status": status,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "error": error if status == "FAILED" and not failed else "",
        "steps": rows,
        "gate": gate,
        "mlflow": {"tracking_uri": os.environ.get("MLFLOW_TRACKING_URI", ""), "run_id": parent},
        "service": service_of(found.get("ttrl")),
    }


def describe_step(name: str, found: dict[str, StepRecord], cached: dict[str, StepRecord], state: str) -> dict[str, Any]:
    """One row of the summary."""
    record = found.get(name) or cached[name]
    status = record.status if name in found else "CACHED"
    if status == "RUNNING" and state == "STOPPED":
        status = state
    row: dict[str, Any] = {
        "name": name,
        "status": "FAILED" if status == "RUNNING" else status,
        "seconds": round(record.seconds, 2),
        "peak_rss_bytes": record.peak_rss_bytes,
        "metrics": record.metrics,
        "artifacts": {
            key: {k: v for k, v in asdict(item).items() if k in ("uri", "sha256", "provenance")}
            for key, item in record.outputs.items()
        },
        "pictures": record.pictures,
        "markdown": record.markdown,
        "facts": record.facts if name not in ("configure",) else {},
    }
    if row["status"] == "CACHED":
        row["made_by_run"] = record.run_id
    if row["status"] == "FAILED":
        killed = record.status == "RUNNING"
        row["error"] = "the step's process ended without a word (killed, or out of memory)." if killed else record.error
        row["expected"] = record.expected
        row["remedy"] = record.remedy or "Run again with --resume; finished steps are kept."
    if record.tracking_error:
        row["tracking_error"] = record.tracking_error
    return row


def skipped(step: str) -> dict[str, Any]:
    """The row of a step that did not run."""
    return {"name": step, "status": "SKIPPED", "seconds": 0.0, "peak_rss_bytes": 0, "metrics": {}, "artifacts": {}}


def seed_of(everything: dict[str, StepRecord]) -> int | None:
    """The run's seed, as the form had it."""
    record = everything.get("configure")
    return record.config.get("seed") if record else None


def gate_of(record: StepRecord | None) -> dict[str, Any] | None:
    """The gate's decision and reasons, from the evaluation artifact."""
    if record is None or "evaluation" not in record.outputs:
        return None
    path = Path(record.outputs["evaluation"].uri) / "gate.json"
    if path.is_file():
        value = read_json(path)
        return {key: value[key] for key in ("decision", "reasons", "candidate") if key in value}
    return record.facts.get("gate")


def service_of(record: StepRecord | None) -> dict[str, Any] | None:
    """Where the service is, None where none was started."""
    service = record.facts.get("service") if record and record.status == "SUCCEEDED" else None
    return {key: service.get(key) for key in ("url", "model_digest", "pid", "container")} if service else None


def close_tracking(run: str, summary: dict[str, Any], text: str, steps: dict[str, StepRecord]) -> None:
    """Put the summary, the headline figures and the recordings on the parent run; end it, and steps cut off."""
    api = tracking.client()
    parent = tracking.parent_run(api, run)
    api.log_dict(parent, summary, "summary.json")
    api.log_text(parent, text, "summary.md")
    api.set_tag(parent, tracking.DESCRIPTION, headline(summary))
    for name in ("profile", "seed"):
        if summary[name] is not None:
            api.log_param(parent, name, summary[name])
    for row in summary["steps"]:
        if row["name"] == "evaluation":
            for name, value in row["metrics"].items():
                api.log_metric(parent, name, float(value))
    if summary["gate"]:
        api.set_tag(parent, "pixelis.gate", summary["gate"]["decision"])
    api.set_tag(parent, "pixelis.status", summary["status"])
    for record in steps.values():
        if record.status == "RUNNING" and record.mlflow_run_id:
            api.set_terminated(record.mlflow_run_id, "KILLED")
    if "recordings" in steps:
        tracking.log_datasets(api, parent, steps["recordings"])
    api.set_tag(parent, "git_sha", summary["git_sha"])
    state = {"SUCCEEDED": "FINISHED", "STOPPED": "KILLED"}.get(summary["status"], "FAILED")
    api.set_terminated(parent, state)


def headline(summary: dict[str, Any]) -> str:
    """What a reviewer reads first: how the run ended, and why the model was promoted or held."""
    lines = [f"{summary['status']}, profile {summary['profile']}, seed {summary['seed']}."]
    lines += [f"- {row['name']} failed: {row['error']}" for row in summary["steps"] if row["status"] == "FAILED"]
    if summary["gate"]:
        lines += [
            f"\nGate: **{summary['gate']['decision']}**",
            *(f"- {reason}" for reason in summary["gate"]["reasons"]),
        ]
    return "\n".join([*lines, "\nAll steps: `summary.md` among the artifacts; each step is a run of its own below."])

"""Runs a step's verb inside KFP: configuration in, artifacts staged and recorded, figures to KFP and MLflow.

Guarantees: an output folder appears whole or not at all; what ran is recorded before, during and after; a failure keeps
its cause in the step's record and log. Not guaranteed: anything about the verb's `work` folder, which a killed step
leaves behind on purpose and which its next attempt receives again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from components.shared.runtime import records, tracking, train_job
from components.shared.runtime.artifacts import atomic_write, sha256_bytes, staged_directory, tree_digest, write_json
from components.shared.runtime.config import StepSection, canonical_json
from components.shared.runtime.errors import EnvironmentFault, PixelisError
from components.shared.runtime.keeping import kept
from components.shared.runtime.logs import configure_logging
from components.shared.runtime.memory import PeakMemory
from components.shared.runtime.page import render_page, write_pictures
from components.shared.runtime.records import ArtifactRecord, StepRecord
from components.shared.runtime.report import Report
from components.shared.runtime.reproducibility import restart_step, seed_everything, system_facts
from components.shared.runtime.stores import forget_folder

log = logging.getLogger(__name__)
WORK = "work"


def run_step(
    name: str,
    verb: Callable[..., Report],
    section: tuple[type[StepSection], str],
    inputs: tuple[type, dict[str, Any]],
    outputs: tuple[type, dict[str, Any]],
    ui: dict[str, Any] | None = None,
    after: Callable[[StepRecord, Report], None] | None = None,
) -> Report:
    """Run one step.

    Args:
        name: The step's name in the run (`sft`; `clips.0` for a member of a fan-out).
        verb: `verb(config, inputs, outputs) -> Report`.
        section: The section's class and its canonical JSON.
        inputs: The verb's inputs class and its values: KFP artifacts (or lists of them) become paths, the rest passes.
        outputs: The verb's outputs class and its KFP artifacts; a field named `work` receives a folder that survives.
        ui: KFP artifacts for people: `metrics`, `page` (HTML), `summary` (Markdown), `confusion`.
        after: Called once the artifacts have their names, before the step counts as done (registering a model).

    Returns:
        The verb's report.
    """
    record = StepRecord(step=name, run_id=records.run_id(), started=time.time(), pid=os.getpid())
    start_process(name, record)
    try:
        with full_disk_explained(), PeakMemory() as memory:
            report = execute(record, verb, section, inputs, outputs, memory)
            if after:
                after(record, report)
        publish(record, report, ui or {})
    except BaseException as error:
        fail(record, error)
        raise
    finally:
        os.environ.pop(tracking.STEP_RUN, None)
    return report


def start_process(name: str, record: StepRecord) -> None:
    """Send this process's output to the step's log, note that the step runs, and die with the runner."""
    directory = records.run_directory()
    if directory:
        path = directory / "logs" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.close(handle)
        progress = directory / "progress"
        progress.mkdir(exist_ok=True)
        os.environ["PIXELIS_PROGRESS_FILE"] = str(progress / f"{name}.json")
    configure_logging(trace=record.run_id, component=name)
    records.save_record(record)
    runner = os.environ.get("PIXELIS_RUNNER_PID")
    if runner:
        threading.Thread(target=die_with, args=(int(runner),), daemon=True, name="die-with-runner").start()


def die_with(runner: int) -> None:
    """End this process when the runner is gone: an orphan would write beside a resumed run."""
    while True:
        time.sleep(1.0)
        try:
            os.kill(runner, 0)
        except ProcessLookupError:
            log.error("the runner (process %d) is gone; this step stops and can be resumed", runner)
            os._exit(1)


def execute(
    record: StepRecord,
    verb: Callable[..., Report],
    section: tuple[type[StepSection], str],
    inputs: tuple[type, dict[str, Any]],
    outputs: tuple[type, dict[str, Any]],
    memory: PeakMemory,
) -> Report:
    """Check inputs, stage outputs, call the verb, record what was made."""
    config = section[0].parse(section[1], name=record.step)
    record.config, record.config_digest = config.model_dump(mode="json"), config.digest()
    if config.deterministic:
        restart_step(config.seed)
    open_run(record)
    seed_everything(config.seed, deterministic=config.deterministic)
    system = system_facts()
    log.info("system: %s", system)
    paths = {key: receive(record, key, value) for key, value in inputs[1].items()}
    records.save_record(record)
    targets = {key: Path(artifact.path) for key, artifact in outputs[1].items()}
    work = work_directory(record, targets) if WORK in {field.name for field in dataclasses.fields(outputs[0])} else None
    with contextlib.ExitStack() as stack:
        staged = {key: stack.enter_context(staged_directory(target)) for key, target in targets.items()}
        extra = {WORK: work} if work else {}
        report = work_out(record, verb, config, inputs[0](**paths), outputs[0](**staged, **extra))
        record.seconds, record.peak_rss_bytes = time.time() - record.started, memory.peak_bytes
        record.metrics, record.markdown = report.metrics, report.markdown
        record.facts = report.facts | {"system": system}
        keep_pictures(record, report)
        for key, folder in staged.items():
            digest = tree_digest(folder)
            record.outputs[key] = ArtifactRecord(
                str(targets[key]), digest, report.provenance, record.run_id, record.step
            )
        record.status = "SUCCEEDED"
        for key, folder in staged.items():
            records.write_artifact_record(folder, record, key)
    report.pictures = {caption: final_place(path, staged, targets) for caption, path in report.pictures.items()}
    if work:
        shutil.rmtree(work, ignore_errors=True)
    for key, artifact in outputs[1].items():
        made = record.outputs[key]
        artifact.metadata.update(sha256=made.sha256, provenance=made.provenance, run_id=made.run_id, step=made.step)
    return report


def work_out(record: StepRecord, verb: Callable[..., Report], config: StepSection, inputs: Any, outputs: Any) -> Report:
    """Call the verb: here, or on the nodes the placement gives; on a cluster the work folder outlives the pod."""
    nodes, work = train_job.nodes_here(), getattr(outputs, WORK, None)
    if nodes:
        return train_job.run_on_nodes(nodes, record.step, config, inputs, outputs)
    address = os.environ.get("PIXELIS_WORK_URI") if train_job.in_pod() else ""
    if not address or work is None:
        return verb(config, inputs, outputs)
    uri = f"{address.rstrip('/')}/{work.name}/{records.run_id()}/{WORK}"
    with kept(work, uri):
        report = verb(config, inputs, outputs)
    forget_folder(uri)
    return report


def open_run(record: StepRecord) -> None:
    """Open the step's run in MLflow, where its curves appear while it works."""
    try:
        record.mlflow_run_id = os.environ[tracking.STEP_RUN] = tracking.open_step(record)
    except Exception as error:  # seen again at the step's end, and recorded then
        log.warning("no run could be opened in MLflow: %s", error)


def final_place(path: Path, staged: dict[str, Path], targets: dict[str, Path]) -> Path:
    """Where a staged file is once its artifact has its name."""
    for key, folder in staged.items():
        if path.is_relative_to(folder):
            return targets[key] / path.relative_to(folder)
    return path


def receive(record: StepRecord, key: str, value: Any) -> Any:
    """An input as the verb takes it: KFP artifacts become checked paths."""
    if isinstance(value, list | tuple):
        return tuple(receive(record, key, item) for item in value)
    if not hasattr(value, "path"):
        return value
    path = Path(value.path)
    found, _ = records.read_artifact_record(path)
    record.inputs.setdefault(key, []).append(dataclasses.replace(found, uri=str(path)))
    return path


def work_directory(record: StepRecord, targets: dict[str, Path]) -> Path:
    """A folder that depends only on the step, its configuration and its inputs: the next attempt finds it again."""
    seen = {key: [item.sha256 for item in items] for key, items in record.inputs.items()}
    key = sha256_bytes(canonical_json([record.step, record.config_digest, seen]).encode())[:16]
    root = os.environ.get("PIXELIS_WORK_DIR")
    base = Path(root) if root else next(iter(targets.values())).parent / ".work"
    folder = base / f"{record.step}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def keep_pictures(record: StepRecord, report: Report) -> None:
    """Copy the report's pictures into the run's directory, where the summary shows them."""
    directory = records.run_directory()
    if directory:
        names = write_pictures(report, directory / "pictures" / record.step)
        record.pictures = {caption: f"pictures/{record.step}/{name}" for caption, name in names.items()}


def publish(record: StepRecord, report: Report, ui: dict[str, Any]) -> None:
    """Fill KFP's artifacts for people and write the step to MLflow."""
    page = render_page(f"{record.step} ({record.run_id})", report)
    if "metrics" in ui:
        for key, value in report.metrics.items():
            ui["metrics"].log_metric(key, float(value))
        write_json(Path(ui["metrics"].path), report.metrics)  # without a file the local cache never hits
    if "page" in ui:
        atomic_write(Path(ui["page"].path), page)
    if "summary" in ui:
        atomic_write(Path(ui["summary"].path), report.markdown or f"# {record.step}\n")
    if "confusion" in ui:
        if report.confusion:
            ui["confusion"].log_confusion_matrix(*report.confusion)
        write_json(Path(ui["confusion"].path), report.confusion or [])
    directory = records.run_directory()
    try:
        pictures = directory / "pictures" / record.step if directory else None
        record.mlflow_run_id = tracking.log_step(record, report, pictures, page)
    except Exception as error:  # the step's work is done and kept; a tracking fault must not undo it
        record.tracking_error = f"{type(error).__name__}: {error}"[:500]
        log.warning("figures did not reach MLflow (%s); they stand in the run's summary", record.tracking_error)
    records.save_record(record)
    log.info("step %s succeeded in %.1f s, peak %.0f MiB", record.step, record.seconds, record.peak_rss_bytes / 2**20)


def fail(record: StepRecord, error: BaseException) -> None:
    """Record why the step ended early; the traceback goes to the step's log. What a person stops has not failed."""
    record.status = "STOPPED" if isinstance(error, KeyboardInterrupt) else "FAILED"
    record.seconds = time.time() - record.started
    record.error = f"{type(error).__name__}: {error.message if isinstance(error, PixelisError) else error}"[:2000]
    record.remedy = error.remedy if isinstance(error, PixelisError) else ""
    record.expected = isinstance(error, PixelisError)
    log.error("step %s failed: %s", record.step, error, exc_info=not isinstance(error, PixelisError))
    with contextlib.suppress(OSError):
        records.save_record(record)
    try:
        tracking.log_failure(record)
    except Exception as fault:
        log.warning("the failure did not reach MLflow: %s", fault)


@contextlib.contextmanager
def full_disk_explained() -> Iterator[None]:
    """Turn 'no space left' into an error that says what is kept and how to go on."""
    import errno

    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EnvironmentFault(
                f"the disk is full ({error.filename or 'while writing'}); the step's unfinished output was removed, "
                "finished steps are kept.",
                remedy="Free space, then run again with --resume.",
            ) from error
        raise


@contextlib.contextmanager
def record_values(name: str, config: dict[str, Any]) -> Iterator[StepRecord]:
    """Record a step that handles values only (configure, gate): no artifacts, no report."""
    record = StepRecord(step=name, run_id=records.run_id(), started=time.time(), pid=os.getpid(), config=config)
    start_process(name, record)
    try:
        with PeakMemory() as memory:
            yield record
        record.status, record.seconds = "SUCCEEDED", time.time() - record.started
        record.peak_rss_bytes = memory.peak_bytes
        records.save_record(record)
    except BaseException as error:
        fail(record, error)
        raise

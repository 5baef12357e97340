"""A training step on several nodes: the step's pod only launches a TrainJob (Kubeflow Trainer v2) and waits for it.

Role: `pipelines.placement` gives a step with `num_nodes` over 1 a small pod and says in PIXELIS_TRAIN_JOB what every
node is made of; `run_step` then calls `run_on_nodes` instead of the step's verb. Every node runs node.py, which brings
the inputs from the object store, starts `torchrun` on `python -m components.<step>`, and on the first node keeps
checkpoints and results at the job's exchange address, from where this process takes them.

Guarantees: one TrainJob per run, step, configuration and inputs: a launcher that starts again finds the job it left and
goes on waiting, and another run of the same step has a job, checkpoints and results of its own; a launcher that is
ended, or gives up, removes its job, and with it the nodes. A short silence of the cluster's API ends nothing.
Not guaranteed: removal after kill -9 of the launcher; the job then ends by its own deadline.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from components.shared.runtime.config import Section, StepSection, canonical_json
from components.shared.runtime.errors import EnvironmentFault, StepError
from components.shared.runtime.records import run_id
from components.shared.runtime.report import Report, read_report
from components.shared.runtime.stores import fetch_folder, forget_folder, object_uri

log = logging.getLogger(__name__)
VARIABLE = "PIXELIS_TRAIN_JOB"
NODE_MODULE = "components.shared.runtime.node"
REPORT, WORK, OUTPUTS, INPUTS = "report", "work", "outputs", "inputs"
COMPLETE, FAILED, GONE = "Complete", "Failed", "gone"
SILENCE_S = 900.0
"""How long the cluster's API may be unreachable before the launcher gives up."""
LOG_LINES = 40
MOST_LOGS = 4


class Nodes(Section):
    """What every node of a job is made of; written by the placement, read from PIXELIS_TRAIN_JOB."""

    namespace: str = ""
    """Where the job runs; the launcher's own namespace where empty."""
    runtime: str = "pixelis-torch"
    """The TrainingRuntime (manifests/trainer)."""
    image: str
    num_nodes: int = Field(ge=2)
    processes: int = Field(1, ge=1)
    """Processes a node: one for each accelerator."""
    cpu: str
    memory: str
    accelerator: str = ""
    accelerator_count: int = 0
    shm: str = ""
    node_selector: dict[str, str] = {}
    timeout_s: int = Field(ge=60)
    exchange: str
    """Address under which jobs keep checkpoints and results."""


class Job(Section):
    """What a node is told to run: its only argument."""

    module: str
    """Entry point, `components.sft`."""
    section: dict[str, Any]
    inputs: dict[str, str | int | tuple[str, ...]]
    """Values of the entry point's options; addresses become folders."""
    outputs: tuple[str, ...]
    exchange: str
    """The job's own address."""
    processes: int = 1


def nodes_here() -> Nodes | None:
    """The nodes this step is to be launched on; None where it runs in this process, as on any machine but a pod."""
    text = os.environ.get(VARIABLE) if in_pod() else ""
    return Nodes.parse(text, name=VARIABLE) if text else None


def in_pod() -> bool:
    """Whether this is a task of a pipeline on a cluster: the variable is a pod's field, which a local run never has."""
    return bool(os.environ.get("PIXELIS_POD_NAMESPACE"))


def run_on_nodes(
    nodes: Nodes, step: str, config: StepSection, inputs: Any, outputs: Any, *, client: Any = None, poll_s: float = 10.0
) -> Report:
    """Run a step's verb on several nodes; fills the output folders and returns the first node's report.

    Args:
        nodes: What they are made of.
        step: The step's name; its entry point is `components.<step>`.
        config: Its section.
        inputs: The verb's inputs (a dataclass of paths that KFP shows).
        outputs: The verb's outputs (a dataclass of local folders, `work` among them: its name identifies the work).
        client: A `kubeflow.trainer.TrainerClient`; made from the pod's account where absent.
        poll_s: Seconds between two looks.

    Raises:
        StepError: the job failed or ran past its time; carries the end of its nodes' logs.
        EnvironmentFault: the cluster refuses, or its API has been silent too long.
    """
    folders = {field.name: Path(getattr(outputs, field.name)) for field in dataclasses.fields(outputs)}
    work = folders.pop(WORK)
    exchange = f"{nodes.exchange.rstrip('/')}/{work.name}/{run_id()}"
    job = Job(
        module=f"components.{step}",
        section=config.model_dump(mode="json"),
        inputs={field.name: given(getattr(inputs, field.name)) for field in dataclasses.fields(inputs)},
        outputs=tuple(folders),
        exchange=exchange,
        processes=nodes.processes,
    )
    name = job_name(work.name, run_id())
    client = client or connect(nodes.namespace or os.environ.get("PIXELIS_POD_NAMESPACE", ""))
    with removed_when_ended(client, name):
        start(client, nodes, job, name)
        wait(client, name, nodes.timeout_s, poll_s)
        for key, folder in folders.items():
            fetch_folder(f"{exchange}/{OUTPUTS}/{key}", folder)
        fetch_folder(f"{exchange}/{REPORT}", work / REPORT)
    report = read_report(work / REPORT / "report.json")
    report.pictures = {
        caption: folders[path.parts[0]] / Path(*path.parts[1:])
        for caption, path in report.pictures.items()
        if path.parts[0] in folders
    }
    forget_folder(exchange)  # the outputs are this step's now
    return report


def job_name(work: str, run: str) -> str:
    """A name that this run alone gives to this work, and gives again when it is tried again."""
    plain = re.sub("[^a-z0-9]+", "-", work.lower()).strip("-")
    return f"pixelis-{plain}-{hashlib.sha256(run.encode()).hexdigest()[:8]}"


def given(value: Any) -> Any:
    """An input as a node is told it: paths as their store's addresses."""
    if isinstance(value, list | tuple):
        return tuple(given(item) for item in value)
    return object_uri(value) if isinstance(value, Path) else value


def connect(namespace: str) -> Any:
    """The official client, with the pod's own account, else the user's kubeconfig."""
    from kubeflow.common.types import KubernetesBackendConfig
    from kubeflow.trainer import TrainerClient

    return TrainerClient(backend_config=KubernetesBackendConfig(namespace=namespace or None))


def start(client: Any, nodes: Nodes, job: Job, name: str) -> None:
    """Create the TrainJob, or find the one that an earlier launcher of the same work left; a failed one is replaced."""
    status = asked(lambda: client.get_job(name).status, missing=None)
    if status == FAILED:
        log.warning("TrainJob %s failed before; it is removed and made again", name)
        asked(lambda: client.delete_job(name))
        until_gone(client, name)
        status = None
    if status is not None:
        log.info("TrainJob %s is there already (%s); waiting for it", name, status)
        return
    from kubeflow.trainer import CustomTrainerContainer

    resources = {"cpu": nodes.cpu, "memory": nodes.memory}
    if nodes.accelerator:
        resources[nodes.accelerator] = str(nodes.accelerator_count)
    trainer = CustomTrainerContainer(
        image=nodes.image,
        num_nodes=nodes.num_nodes,
        resources_per_node=resources,
        env={"PIXELIS_RUN_ID": run_id()},
    )
    asked(lambda: client.train(runtime=nodes.runtime, trainer=trainer, options=options(nodes, job, name)))
    log.info("TrainJob %s: %d nodes of %s", name, nodes.num_nodes, nodes.image)


def options(nodes: Nodes, job: Job, name: str) -> list[Any]:
    """Name, labels, command, time limit, and what the placement says of the pods."""
    from kubeflow.trainer import options as offered

    command = ["python3", "-m", NODE_MODULE, canonical_json(job.model_dump(mode="json"))]
    chosen: list[Any] = [
        offered.Name(name),
        offered.Labels({"app.kubernetes.io/part-of": "pixelis", "pixelis.io/step": job.module.rpartition(".")[2]}),
        offered.TrainerCommand(command),
        offered.ActiveDeadlineSeconds(nodes.timeout_s),
    ]
    pod = offered.PodSpecPatch(
        node_selector=nodes.node_selector or None,
        tolerations=[{"key": nodes.accelerator, "operator": "Exists", "effect": "NoSchedule"}]
        if nodes.accelerator
        else None,
        volumes=[{"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": nodes.shm}}] if nodes.shm else None,
        containers=[offered.ContainerPatch(name="node", volume_mounts=[{"name": "dshm", "mountPath": "/dev/shm"}])]
        if nodes.shm
        else None,
    )
    if pod != offered.PodSpecPatch():
        chosen.append(patch(pod))
    return chosen


def patch(pod: Any) -> Any:
    """A change of the runtime's node pods."""
    from kubeflow.trainer import options as offered

    job = offered.JobTemplatePatch(spec=offered.JobSpecPatch(template=offered.PodTemplatePatch(spec=pod)))
    jobs = offered.JobSetSpecPatch(replicated_jobs=[offered.ReplicatedJobPatch(name="node", template=job)])
    spec = offered.TrainingRuntimeSpecPatch(template=offered.JobSetTemplatePatch(spec=jobs))
    return offered.RuntimePatch(training_runtime_spec=spec)


def wait(client: Any, name: str, timeout_s: float, poll_s: float) -> None:
    """Look until the job has ended.

    The client's own `wait_for_job_status` ends at the first answer that fails; a night's training must outlast one.

    Raises:
        StepError: it failed, or its time is over.
        EnvironmentFault: the API has been silent for `SILENCE_S`.
    """
    deadline, heard, before = time.monotonic() + timeout_s + SILENCE_S, time.monotonic(), ""
    while time.monotonic() < deadline:
        try:
            status = asked(lambda: client.get_job(name).status, missing=GONE)
            heard = time.monotonic()
        except EnvironmentFault as error:
            if time.monotonic() - heard > SILENCE_S:
                raise
            log.warning("no news of TrainJob %s (%s)", name, error.message)
            status = before
        if status != before:
            log.info("TrainJob %s is %s", name, status)
            before = status
        if status == COMPLETE:
            return
        if status == FAILED:
            raise StepError(
                f"TrainJob {name} failed. The end of its logs:\n{log_tail(client, name)}",
                remedy="Its last checkpoint is kept: run again, and it goes on from there.",
            )
        if status == GONE:
            raise StepError(
                f"TrainJob {name} was removed while it ran.",
                remedy="Somebody deleted it. Run again: its last checkpoint is kept.",
            )
        time.sleep(poll_s)
    raise StepError(
        f"TrainJob {name} did not end within {timeout_s:.0f} s. The end of its logs:\n{log_tail(client, name)}",
        remedy="Are there enough nodes (kubectl get pods)? Raise placement.steps.<step>.timeout_s otherwise.",
    )


def log_tail(client: Any, name: str) -> str:
    """The end of the logs of the nodes that failed: the first node often only sees another one go."""
    try:
        steps = {step.name: step.status for step in client.get_job(name).steps}
        failed = [step for step, status in steps.items() if status == FAILED] or ["node-0"]
        logs = {step: "\n".join(client.get_job_logs(name, step=step)).splitlines() for step in sorted(failed)}
    except Exception as error:  # the failure itself is what matters
        return f"(no log: {error})"
    texts = [f"{step}:\n" + "\n".join(lines[-LOG_LINES:]) for step, lines in logs.items() if lines]
    return "\n".join(texts[:MOST_LOGS]) or "(no log: no pod of it has started)"


def until_gone(client: Any, name: str, patience_s: float = 300.0) -> None:
    """Wait until a removed job's name is free."""
    deadline = time.monotonic() + patience_s
    while asked(lambda: client.get_job(name).status, missing=None) is not None:
        if time.monotonic() > deadline:
            raise EnvironmentFault(f"TrainJob {name} was asked to go and is still there after {patience_s:.0f} s.")
        time.sleep(1.0)


@contextmanager
def removed_when_ended(client: Any, name: str) -> Iterator[None]:
    """Remove the job once its results are here, and also when this process is asked to end or gives up."""

    def ended(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, ended)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        try:
            asked(lambda: client.delete_job(name), missing=None)
        except EnvironmentFault as error:
            log.warning("TrainJob %s could not be removed (%s); it ends by its own deadline", name, error.message)


_REFUSE = object()


def asked(call: Callable[[], Any], *, missing: Any = _REFUSE) -> Any:
    """A call of the client, its errors explained; `missing` is the answer where the cluster says 404.

    Raises:
        EnvironmentFault: what the cluster says, which the client hides behind "Failed to …".
    """
    try:
        return call()
    except (RuntimeError, TimeoutError) as error:
        cause = error.__cause__
        status = getattr(cause, "status", None)
        if status == 404 and missing is not _REFUSE:
            return missing
        remedies = {
            403: "Apply manifests/trainer and run with the service account it binds.",
            404: "Install Kubeflow Trainer v2 and apply manifests/trainer.",
        }
        raise EnvironmentFault(
            f"{error}: {f'{status} ' if status else ''}{said(cause)}.",
            remedy=remedies.get(status or 0, ""),
        ) from error


def said(cause: BaseException | None) -> str:
    """What the cluster said, in its own words."""
    try:
        return str(json.loads(getattr(cause, "body", ""))["message"])
    except (TypeError, ValueError, KeyError):
        return str(getattr(cause, "reason", "") or cause or "no cause is given")

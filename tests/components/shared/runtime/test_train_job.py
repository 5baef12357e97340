"""Several nodes: the TrainJob object, the launcher's manners, and two nodes that are two real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
import trainer_double
from trainer_double import NAMESPACE, TrainerDouble, check_train_job, clean_environment, serve

from components.shared.runtime import stores, train_job
from components.shared.runtime.config import StepSection
from components.shared.runtime.errors import EnvironmentFault, StepError
from components.shared.runtime.stores import exists, find, put_folder
from components.shared.runtime.train_job import Nodes, asked, job_name, nodes_here, options, run_on_nodes

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "train-job.yaml"
EXCHANGE = "s3://mlpipeline/exchange"


class TargetSection(StepSection):
    fail_at: int = 0
    pause_s: float = 0.0


@dataclass(frozen=True)
class Inputs:
    numbers: Path
    adapter: Path


@dataclass(frozen=True)
class Outputs:
    adapter: Path
    work: Path


def nodes(**more: Any) -> Nodes:
    base = {"image": "ghcr.io/pixelis/pixelis-train:abc-gpu", "num_nodes": 2, "cpu": "4", "memory": "24Gi"}
    return Nodes(**base | {"timeout_s": 600, "exchange": EXCHANGE, "namespace": NAMESPACE} | more)


@pytest.fixture
def double(tmp_path: Path, store: Any) -> Iterator[TrainerDouble]:
    logs = tmp_path / "logs"
    logs.mkdir()
    path = os.pathsep.join([str(HERE), *sys.path])
    made = TrainerDouble(logs, clean_environment(PYTHONPATH=path, PIXELIS_NODE_DIR=str(logs), OMP_NUM_THREADS="1"))
    server = serve(made)
    made.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    yield made
    for name in list(made.nodes):
        made.stop(name)
    server.shutdown()
    server.server_close()


def trainer_client(double: TrainerDouble) -> Any:
    from kubeflow.common.types import KubernetesBackendConfig
    from kubeflow.trainer import TrainerClient
    from kubernetes import client

    settings = client.Configuration()
    settings.host = double.url  # type: ignore[attr-defined]
    return TrainerClient(KubernetesBackendConfig(namespace=NAMESPACE, client_configuration=settings))


@pytest.fixture
def launch(double: TrainerDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Launches the target on nodes; its input lies where KFP shows a store."""
    place = tmp_path / "minio" / "mlpipeline" / "v2" / "numbers"
    place.mkdir(parents=True)
    (place / "numbers.json").write_text(json.dumps(list(range(10))))
    monkeypatch.setitem(stores.MOUNTS, f"{tmp_path}/minio/", "minio://")
    monkeypatch.setattr(train_job, "Job", target_job)
    monkeypatch.setenv("PIXELIS_RUN_ID", "run-7")
    put_folder(place, "minio://mlpipeline/v2/numbers")
    before = tmp_path / "minio" / "mlpipeline" / "v2" / "adapter"
    before.mkdir()
    (before / "sum.json").write_text('"before"')
    put_folder(before, "minio://mlpipeline/v2/adapter")

    def start(section: TargetSection, key: str, **more: Any) -> tuple[Any, Path]:
        outputs = Outputs(tmp_path / "adapter", tmp_path / f"sft-{key}")
        outputs.work.mkdir()
        made = run_on_nodes(
            nodes(**more), "sft", section, Inputs(place, before), outputs, client=trainer_client(double), poll_s=0.2
        )
        return made, outputs.adapter

    return start


def target_job(**values: Any) -> train_job.Job:
    """The job of a step, its entry point replaced by the test's."""
    return REAL_JOB(**values | {"module": "group_target"})


REAL_JOB = train_job.Job


def test_two_nodes_train_together_and_a_failure_costs_what_came_after_the_checkpoint(
    double: TrainerDouble, launch: Any
) -> None:
    """Two real torchruns (gloo); the second node fails after six of ten steps, and both start again."""
    report, adapter = launch(TargetSection(fail_at=6), "again")
    assert double.attempts == 2
    assert json.loads((adapter / "sum.json").read_text()) == sum(range(10)) * (1 + 2)
    assert (report.metrics["sum"], report.provenance) == (135, "real")
    assert (report.facts["world"], report.facts["run"]) == (2, "run-7")
    assert report.facts["began"] >= 5, "the second attempt went on from the first one's checkpoint"
    assert report.pictures["curve"].read_bytes() == b"picture"
    assert not double.jobs, "the job is removed once its results are here"
    assert double.created[0]["metadata"]["name"] == job_name("sft-again", "run-7")
    assert not exists(f"{EXCHANGE}/sft-again"), "and so is what it kept"


def test_two_runs_of_the_same_work_have_a_job_each_and_one_goes_on_from_what_the_other_left(
    double: TrainerDouble, launch: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Run 8 is killed in the middle; run 7 begins with its checkpoint and leaves run 8's job and checkpoints alone."""
    theirs = f"{EXCHANGE}/sft-both/run-8/work"
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / "state.json").write_text(json.dumps({"step": 7, "sum": sum(range(7)) * 3}))
    put_folder(tmp_path / "left", theirs)
    double.jobs[job_name("sft-both", "run-8")] = {"metadata": {}, "spec": {}}
    report, adapter = launch(TargetSection(), "both")
    assert json.loads((adapter / "sum.json").read_text()) == 135
    assert report.facts["began"] == 7
    assert list(double.jobs) == [job_name("sft-both", "run-8")]
    assert [*find(f"{EXCHANGE}/sft-both")] == ["run-8/work/state.json"]


def test_a_jobs_name_is_the_runs_own_and_the_same_at_every_try() -> None:
    assert job_name("sft-0123", "run-7") == job_name("sft-0123", "run-7")
    assert job_name("sft-0123", "run-7") != job_name("sft-0123", "run-8")
    longest = job_name("alignment-" + 16 * "f", 36 * "f")
    assert re.fullmatch("[a-z][-a-z0-9]*", longest) and len(longest) + len("-node-0-0-abcde") <= 63, "a pod's label"


def test_a_job_that_fails_for_good_shows_the_log_of_the_node_that_did(double: TrainerDouble, launch: Any) -> None:
    double.max_restarts = 1
    failing = "import sys; rank = int(sys.argv[1]); print('disk full' if rank else 'fine'); sys.exit(3 * rank)"
    double.command = [sys.executable, "-c", failing]
    put_folder(HERE / "golden", f"{EXCHANGE}/sft-broken/run-7/work")
    with pytest.raises(StepError, match=r"(?s)pixelis-sft-broken-[0-9a-f]{8} failed.*node-1:.*disk full"):
        launch(TargetSection(), "broken")
    assert double.attempts == 2
    assert not double.jobs
    assert exists(f"{EXCHANGE}/sft-broken/run-7/work"), "the checkpoint stays for the next try"


def test_a_launcher_that_starts_again_finds_its_job_and_waits(double: TrainerDouble, launch: Any) -> None:
    double.runs_nodes = False
    client = trainer_client(double)
    job = target_job(
        module="x", section={}, inputs={"numbers": "minio://mlpipeline/v2/numbers"}, outputs=("adapter",),
        exchange=f"{EXCHANGE}/sft-found",
    )  # fmt: skip
    train_job.start(client, nodes(), job, "pixelis-sft-found")
    train_job.start(client, nodes(), job, "pixelis-sft-found")
    assert len(double.created) == 1
    double.end("pixelis-sft-found", "Failed")
    train_job.start(client, nodes(), job, "pixelis-sft-found")
    assert len(double.created) == 2, "a failed one is replaced"


def test_a_short_silence_of_the_api_ends_nothing_and_a_long_one_does(
    double: TrainerDouble, launch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.runs_nodes = False
    client = trainer_client(double)
    job = target_job(module="x", section={}, inputs={}, outputs=("adapter",), exchange=f"{EXCHANGE}/sft-quiet")
    train_job.start(client, nodes(), job, "quiet")
    looks = []

    def look(name: str) -> Any:
        looks.append(name)
        double.silent = len(looks) < 4
        if len(looks) == 6:
            double.end("quiet", "Complete")
        return type(client).get_job(client, name)

    monkeypatch.setattr(client, "get_job", look)
    train_job.wait(client, "quiet", 60, 0.01)
    assert len(looks) >= 6
    double.silent = True
    monkeypatch.undo()
    monkeypatch.setattr(train_job, "SILENCE_S", 0.3)
    with pytest.raises(EnvironmentFault, match="503"):
        train_job.wait(client, "quiet", 60, 0.05)


def test_a_job_that_never_ends_and_one_that_somebody_removes(double: TrainerDouble, launch: Any) -> None:
    double.runs_nodes = False
    client = trainer_client(double)
    job = target_job(module="x", section={}, inputs={}, outputs=("adapter",), exchange=f"{EXCHANGE}/sft-long")
    train_job.start(client, nodes(), job, "long")
    with pytest.raises(StepError, match=r"(?s)did not end within.*no pod of it has started"):
        train_job.wait(client, "long", 0.2 - train_job.SILENCE_S, 0.05)
    double.jobs.clear()
    with pytest.raises(StepError, match="was removed while it ran"):
        train_job.wait(client, "long", 60, 0.05)


def test_missing_rights_and_a_missing_runtime_are_named(double: TrainerDouble, launch: Any) -> None:
    client = trainer_client(double)
    with pytest.raises(EnvironmentFault, match="manifests/trainer"):
        launch(TargetSection(), "none", runtime="other")
    double.rules = [rule for rule in double.rules if "trainjobs" not in rule["resources"]]
    with pytest.raises(EnvironmentFault, match=r"403 .*service account"):
        asked(lambda: client.get_job("x"))


def test_a_launcher_that_is_ended_takes_its_nodes_along(double: TrainerDouble, launch: Any, tmp_path: Path) -> None:
    """What Kubeflow does when a person stops a run: SIGTERM to the launching pod."""
    script = f"""
import sys
sys.path[:0] = [{str(HERE)!r}]
from pathlib import Path
from kubernetes import client
from kubeflow.common.types import KubernetesBackendConfig
from kubeflow.trainer import TrainerClient
import test_train_job as t
from components.shared.runtime import stores, train_job
stores.MOUNTS[{str(tmp_path) + "/minio/"!r}] = "minio://"
train_job.Job = t.target_job
settings = client.Configuration()
settings.host = {double.url!r}
made = TrainerClient(KubernetesBackendConfig(namespace="kubeflow", client_configuration=settings))
work = Path({str(tmp_path / "sft-ended")!r})
work.mkdir()
place = Path({str(tmp_path / "minio" / "mlpipeline" / "v2" / "numbers")!r})
outputs = t.Outputs(Path({str(tmp_path / "out")!r}), work)
train_job.run_on_nodes(
    t.nodes(), "sft", t.TargetSection(pause_s=30), t.Inputs(place, place.parent / "adapter"), outputs, client=made,
    poll_s=0.1,
)
"""  # type: ignore[attr-defined]
    launcher = subprocess.Popen(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    deadline = time.monotonic() + 60
    while not double.nodes and time.monotonic() < deadline:
        time.sleep(0.1)
    [started] = double.nodes.values()
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(60) == 128 + signal.SIGTERM
    assert not double.jobs
    assert all(node.wait(30) is not None for node in started)


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_the_object_is_the_golden_one(double: TrainerDouble, kind: str) -> None:
    """Renew with PIXELIS_RENEW_GOLDEN=1 and look at the difference."""
    double.runs_nodes = False
    more: dict[str, Any] = {}
    if kind == "gpu":
        more = {"accelerator": "nvidia.com/gpu", "accelerator_count": 2, "processes": 2, "shm": "8Gi"}
        more |= {"node_selector": {"cloud/pool": "a100"}}
    asked_for = nodes(**more)
    job = REAL_JOB(
        module="components.sft",
        section={"seed": 0, "rank": 16},
        inputs={"trajectories": "minio://mlpipeline/v2/t", "clips": ("minio://mlpipeline/v2/c",), "width": 3},
        outputs=("adapter",),
        exchange=f"{EXCHANGE}/sft-0123",
        processes=asked_for.processes,
    )
    train_job.start(trainer_client(double), asked_for, job, "pixelis-sft-0123")
    [made] = double.created
    golden = GOLDEN.with_stem(f"train-job-{kind}")
    if os.environ.get("PIXELIS_RENEW_GOLDEN") == "1":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(yaml.safe_dump(made, sort_keys=True))
    assert made == yaml.safe_load(golden.read_text())


def test_the_double_refuses_what_the_controller_would(double: TrainerDouble) -> None:
    """The test's own instrument: a misspelt field, and environment by a patch."""
    job = REAL_JOB(module="x", section={}, inputs={}, outputs=("adapter",), exchange=EXCHANGE)
    double.runs_nodes = False
    train_job.start(trainer_client(double), nodes(shm="1Gi"), job, "right")
    good = double.created[0]
    check_train_job(json.loads(json.dumps(good)))
    wrong = json.loads(json.dumps(good))
    wrong["spec"]["trainer"]["numNode"] = 2
    with pytest.raises(trainer_double.Refused, match="strict decoding"):
        check_train_job(wrong)
    wrong = json.loads(json.dumps(good))
    patched = wrong["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]
    patched["template"]["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "A", "value": "b"}]
    with pytest.raises(trainer_double.Refused, match="must not have envs"):
        check_train_job(wrong)


def test_pods_are_patched_only_where_the_placement_says_so() -> None:
    job = REAL_JOB(module="x", section={}, inputs={}, outputs=("adapter",), exchange=EXCHANGE)
    assert len(options(nodes(), job, "n")) == 4
    assert len(options(nodes(node_selector={"a": "b"}), job, "n")) == 5


def test_only_a_pod_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A local run of the same pipeline has the variable and must train in its own process."""
    monkeypatch.setenv(train_job.VARIABLE, nodes().canonical())
    monkeypatch.delenv("PIXELIS_POD_NAMESPACE", raising=False)
    assert nodes_here() is None
    monkeypatch.setenv("PIXELIS_POD_NAMESPACE", "kubeflow")
    assert nodes_here() == nodes()

"""Several nodes: the launcher's manners, and two nodes that are two real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from trainer_double import EXCHANGE, TrainerDouble, nodes, trainer_client

from components.shared.runtime import stores, train_job
from components.shared.runtime.config import StepSection
from components.shared.runtime.errors import EnvironmentFault, StepError
from components.shared.runtime.stores import exists, find, put_folder
from components.shared.runtime.train_job import asked, job_name, run_on_nodes

HERE = Path(__file__).parent


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

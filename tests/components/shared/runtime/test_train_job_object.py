"""The TrainJob that a step on several nodes asks for: its content, its name, and where one is asked for at all."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import trainer_double
import yaml
from trainer_double import EXCHANGE, TrainerDouble, check_train_job, nodes, trainer_client

from components.shared.runtime import train_job
from components.shared.runtime.train_job import job_name, nodes_here, options

GOLDEN = Path(__file__).parent / "golden" / "train-job.yaml"


def test_a_jobs_name_is_the_runs_own_and_the_same_at_every_try() -> None:
    assert job_name("sft-0123", "run-7") == job_name("sft-0123", "run-7")
    assert job_name("sft-0123", "run-7") != job_name("sft-0123", "run-8")
    longest = job_name("alignment-" + 16 * "f", 36 * "f")
    assert re.fullmatch("[a-z][-a-z0-9]*", longest) and len(longest) + len("-node-0-0-abcde") <= 63, "a pod's label"


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_the_object_is_the_golden_one(double: TrainerDouble, kind: str) -> None:
    """Renew with PIXELIS_RENEW_GOLDEN=1 and look at the difference."""
    double.runs_nodes = False
    more: dict[str, Any] = {}
    if kind == "gpu":
        more = {"accelerator": "nvidia.com/gpu", "accelerator_count": 2, "processes": 2, "shm": "8Gi"}
        more |= {"node_selector": {"cloud/pool": "a100"}}
    asked_for = nodes(**more)
    job = train_job.Job(
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
    job = train_job.Job(module="x", section={}, inputs={}, outputs=("adapter",), exchange=EXCHANGE)
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
    job = train_job.Job(module="x", section={}, inputs={}, outputs=("adapter",), exchange=EXCHANGE)
    assert len(options(nodes(), job, "n")) == 4
    assert len(options(nodes(node_selector={"a": "b"}), job, "n")) == 5


def test_only_a_pod_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A local run of the same pipeline has the variable and must train in its own process."""
    monkeypatch.setenv(train_job.VARIABLE, nodes().canonical())
    monkeypatch.delenv("PIXELIS_POD_NAMESPACE", raising=False)
    assert nodes_here() is None
    monkeypatch.setenv("PIXELIS_POD_NAMESPACE", "kubeflow")
    assert nodes_here() == nodes()

"""Two processes under torchrun, killed and resumed, give the loss curve and the decisions of one."""

import os
import signal
import subprocess
import sys
import time

import pytest

from components.sft.config import SftConfig
from components.sft.train import SftInputs, SftOutputs, fine_tune

CONFIG = {
    "rank": 4, "alpha": 8, "steps": 10, "batch": 8, "micro_batch": 4, "learning_rate": 1e-2, "validate_every": 2,
    "num_validation": 9, "num_asked": 5, "checkpoint_every": 2, "seed": 5, "eva": {"enabled": True, "batches": 4},
    "curriculum": {"window": 1, "patience": 1, "cooldown": 1, "tolerance": 0.0},
}  # fmt: skip


def folders(material, out):
    for name in ("adapter", "work"):
        (out / name).mkdir(parents=True, exist_ok=True)
    inputs = SftInputs(material / "trajectories", material / "clips", material / "base")
    return inputs, SftOutputs(out / "adapter", out / "work")


@pytest.fixture
def killed(material, tmp_path):
    """The work folder of a group of two that was killed after its third checkpoint."""
    inputs, outputs = folders(material, tmp_path / "two")
    config = SftConfig(**CONFIG, num_processes=2)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "components.sft",
        "--section", config.canonical(), "--trajectories", inputs.trajectories, "--clips", inputs.clips,
        "--base", inputs.base, "--adapter", outputs.adapter, "--work", outputs.work,
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    log = tmp_path / "killed.log"
    with open(log, "wb") as file:
        group = subprocess.Popen(command, env=environment, start_new_session=True, stderr=file)
    deadline = time.monotonic() + 200
    while group.poll() is None and not list((outputs.work / "checkpoints").glob("step-00000006")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(group.pid, signal.SIGKILL)
    group.wait()
    return config, inputs, outputs, log.read_text()


def test_two_processes_killed_and_resumed_equal_one(material, killed, tmp_path):
    config, inputs, outputs, log = killed
    alone = fine_tune(SftConfig(**CONFIG), *folders(material, tmp_path / "one"))
    together = fine_tune(config, inputs, outputs)
    assert together.metrics["num_processes"] == 2
    assert together.facts["resumed_from_step"] >= 6
    assert together.facts["ranks"] == alone.facts["ranks"]
    for name in ("loss", "validation_loss"):
        steps, values = zip(*together.curves[name])
        expected_steps, expected = zip(*alone.curves[name])
        assert steps == expected_steps
        assert values == pytest.approx(expected, rel=2e-3), name
    moves = alone.facts["curriculum_moves"]
    assert moves
    assert together.facts["curriculum_moves"] == moves
    assert together.metrics["num_windows"] == alone.metrics["num_windows"] == 5
    decided = {component: [] for component in ("sft", "sft.1")}
    for line in log.splitlines():
        for component, lines in decided.items():
            if f"|{component}] step " in line:
                lines.append(line.partition("] ")[2])
    assert decided["sft"]
    assert decided["sft"] == decided["sft.1"]
    assert (outputs.adapter / "adapter_model.safetensors").is_file()

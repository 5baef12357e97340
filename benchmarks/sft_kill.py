"""Kill -9 fine-tuning at random moments and resume it: do the final bytes equal an uninterrupted run's?

A tiny policy and data of its own. Each trial is a process that runs the step's verb and is killed after a random time;
a second process goes on with the same work folder, and the adapter is compared byte for byte. Processes are forked
from one that has imported the libraries and computed nothing. Exits 1 where a trial differs.

    OMP_NUM_THREADS=1 python benchmarks/sft_kill.py --trials 20
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "components" / "sft"))

import accelerate  # noqa: F401 - imported once, before the forks
import peft  # noqa: F401
import torch
from conftest import make_base, write_material
from transformers import Qwen2_5_VLForConditionalGeneration  # noqa: F401

from components.sft.config import SftConfig
from components.sft.train import SftInputs, SftOutputs, fine_tune

CONFIG = SftConfig.model_validate(
    {
        "rank": 4, "alpha": 8, "steps": 60, "batch": 8, "micro_batch": 4, "learning_rate": 2e-2, "validate_every": 3,
        "num_validation": 9, "num_asked": 6, "checkpoint_every": 5, "seed": 5, "eva": {"enabled": True, "batches": 4},
        "curriculum": {"window": 1, "patience": 1, "cooldown": 1, "tolerance": 0.0},
    }
)  # fmt: skip


def forked(work: Callable[[], None]) -> int:
    """A child that runs `work`; its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        torch.set_num_threads(1)
        work()
        status = 0
    finally:
        os._exit(status)


def run(root: Path, out: Path) -> None:
    """The whole step into `out`."""
    for name in ("adapter", "work"):
        (out / name).mkdir(parents=True, exist_ok=True)
    inputs = SftInputs(root / "trajectories", root / "clips", root / "base")
    report = fine_tune(CONFIG, inputs, SftOutputs(out / "adapter", out / "work"))
    (out / "report.json").write_text(json.dumps(report.facts))


def finish(work: Callable[[], None]) -> None:
    """Run in a child, to its end."""
    _, status = os.waitpid(forked(work), 0)
    if status:
        sys.exit("a run that was not killed failed")


def killed(root: Path, out: Path, share: float, seconds: float) -> str:
    """Kill a run at a share of the time that training takes; the newest checkpoint it leaves."""
    child = forked(lambda: run(root, out))
    checkpoints = out / "work" / "checkpoints"
    while not list(out.glob("work/figures-before-*")):  # training begins
        time.sleep(0.002)
    time.sleep(share * seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = sorted(path.name for path in checkpoints.iterdir()) if checkpoints.is_dir() else []
    return found[-1] if found else "no checkpoint"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng, equal, steps = random.Random(given.seed), 0, []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        finish(lambda: (write_material(root, {"train": 24, "validation": 9}), make_base(root / "base")))
        finish(lambda: run(root, root / "straight"))
        before = next(root.glob("straight/work/figures-before-*")).stat().st_mtime
        seconds = (root / "straight/adapter/adapter.json").stat().st_mtime - before
        weights = (root / "straight/adapter/adapter_model.safetensors").read_bytes()
        for trial in range(given.trials):
            out = root / f"trial-{trial}"
            left = killed(root, out, rng.random(), seconds)
            finish(lambda out=out: run(root, out))
            same = (out / "adapter/adapter_model.safetensors").read_bytes() == weights
            equal += same
            steps.append(json.loads((out / "report.json").read_text())["resumed_from_step"])
            print(
                f"{trial}: killed with {left}, resumed from {steps[-1]}: {'equal' if same else 'DIFFERENT'}", flush=True
            )
    print(f"{equal} of {given.trials} equal bit for bit; resumed from steps {sorted(steps)}")
    sys.exit(equal != given.trials)


if __name__ == "__main__":
    main()

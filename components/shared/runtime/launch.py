"""One training step as several processes of one node, by `torchrun`. Imports no torch.

Role: a verb whose section asks for more than one process calls `launch`, which starts `torchrun` on the step's own
entry point (`python -m components.<step>`, see alone.py) and reads the report that rank 0 wrote. Several nodes run the
same entry point under their own launcher; the verb then finds itself in a group and starts nothing.
Guarantees: the processes end with the one that launched them; a rank that fails ends the step.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from components.shared.runtime.artifacts import atomic_write
from components.shared.runtime.config import StepSection
from components.shared.runtime.errors import StepError
from components.shared.runtime.report import Report, read_report
from components.shared.runtime.reproducibility import child_environment

log = logging.getLogger(__name__)


def in_group() -> bool:
    """Whether this process is one of a group that a launcher started, a group of one included."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank() -> int:
    """This process's number in its group, 0 where it is alone."""
    return int(os.environ["RANK"]) if in_group() else 0


def wanted(num_processes: int, device: str) -> int:
    """How many processes a section asks for: its number, or where that is 0 one for each GPU that can be seen."""
    if num_processes:
        return num_processes
    if not device.startswith("cuda"):
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def option(name: str, *, beside: Collection[str] = ()) -> str:
    """The entry point's option of an input or output; `--out-NAME` for an output `beside` an input of its name."""
    return f"--{'out-' if name in beside else ''}{name.replace('_', '-')}"


def launch(module: str, config: StepSection, inputs: Any, outputs: Any, count: int) -> Report:
    """Run a step's entry point in `count` processes and return rank 0's report.

    Args:
        module: `components.sft`.
        config: The section.
        inputs: The verb's inputs (a dataclass of paths).
        outputs: The verb's outputs, with a `work` folder.
        count: Processes.

    Raises:
        StepError: a process failed; its traceback stands in the step's log.
    """
    with tempfile.TemporaryDirectory(prefix="pixelis-launch-") as folder:
        section, report = Path(folder) / "section.json", Path(folder) / "report.json"
        atomic_write(section, config.canonical())
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count),
            "-m", module, "--section", f"@{section}", "--report", str(report),
        ]  # fmt: skip
        for name, value in vars(inputs).items():
            command += [option(name), str(value)]
        for name, value in vars(outputs).items():
            command += [option(name, beside=vars(inputs)), str(value)]
        environment = {
            **os.environ,
            **child_environment(seed=config.seed, deterministic=config.deterministic),
            "PIXELIS_RUNNER_PID": str(os.getpid()),
        }
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
        log.info("starting %d processes of %s", count, module)
        status = subprocess.run(command, env=environment).returncode
        if status:
            raise StepError(
                f"{module} in {count} processes ended with status {status}; its last checkpoint is kept.",
                remedy="The cause stands above in the step's log. Run again with --resume.",
            )
        return read_report(report)

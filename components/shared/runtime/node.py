"""`python -m components.shared.runtime.node JOB`: one node of a TrainJob; see train_job.py.

Brings the inputs from the object store, starts torchrun on the step's entry point, and on the first node keeps what
survives an attempt. Kubeflow Trainer says who is who in PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT,
which torchrun reads by itself.

Guarantees: an attempt starts from the checkpoints that the attempt before it stored; results are stored after every
process of this node ended well, the report last of all; a node that is asked to end passes it on and stores the
checkpoints it has, also where the request comes while it stores them (the other node's failure ends this one's
processes and the node itself at nearly the same time).
Not guaranteed: checkpoints of the last minute on a node that vanishes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

from components.shared.runtime.artifacts import atomic_write
from components.shared.runtime.config import canonical_json
from components.shared.runtime.errors import PixelisError
from components.shared.runtime.keeping import kept
from components.shared.runtime.launch import option
from components.shared.runtime.logs import configure_logging
from components.shared.runtime.report import read_report, write_report
from components.shared.runtime.stores import fetch_folder, is_address, put_folder
from components.shared.runtime.train_job import INPUTS, OUTPUTS, REPORT, WORK, Job

log = logging.getLogger(__name__)


def run(job: Job, scratch: Path, rank: int) -> int:
    """Run this node's part; returns the status of its processes.

    Args:
        job: What to run.
        scratch: An empty folder of this node.
        rank: The node's number; number 0 stores.
    """
    words = [word for name, value in job.inputs.items() for word in given(name, bring(name, value, scratch))]
    work = scratch / WORK
    work.mkdir()
    section, report = scratch / "section.json", scratch / REPORT / "report.json"
    report.parent.mkdir()
    atomic_write(section, canonical_json(job.section))
    words += ["--section", f"@{section}", "--report", str(report), *given(WORK, work)]
    words += [word for name in job.outputs for word in given(name, scratch / OUTPUTS / name, beside=job.inputs)]
    with Processes() as processes:
        with kept(work, f"{job.exchange}/{WORK}") if rank == 0 else contextlib.nullcontext():
            status = processes.run(job, words)
        if status == 0 and rank == 0:
            name_pictures(report, scratch / OUTPUTS)
            for name in job.outputs:
                put_folder(scratch / OUTPUTS / name, f"{job.exchange}/{OUTPUTS}/{name}")
            put_folder(report.parent, f"{job.exchange}/{REPORT}")
    return status


def name_pictures(report: Path, outputs: Path) -> None:
    """Let the report name its pictures by output: the folders of this node mean nothing elsewhere."""
    value = read_report(report)
    value.pictures = {
        text: path.relative_to(outputs) for text, path in value.pictures.items() if path.is_relative_to(outputs)
    }
    write_report(value, report)


def bring(name: str, value: str | int | tuple[str, ...], scratch: Path) -> str | int | tuple[str, ...]:
    """An input's value with every address replaced by a folder that holds what is there."""
    if isinstance(value, tuple):
        return tuple(str(bring(f"{name}-{number}", item, scratch)) for number, item in enumerate(value))
    if isinstance(value, int) or not is_address(value):
        return value
    folder = scratch / INPUTS / name
    num_files, size_bytes = fetch_folder(value, folder)
    log.info("%s: %d files, %d bytes from %s", name, num_files, size_bytes, value)
    return str(folder)


def given(name: str, value: object, *, beside: Collection[str] = ()) -> list[str]:
    """A value as the entry point's option; for an output the inputs' names, which it may share."""
    items = value if isinstance(value, tuple) else (value,)
    return [option(name, beside=beside), *(str(item) for item in items)]


class Processes:
    """This node's processes; while it is entered, a request to end is passed on to them and ends nothing else."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._asked = False

    def __enter__(self) -> Processes:
        self._before = signal.signal(signal.SIGTERM, self._end)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _end(self, *_: object) -> None:
        self._asked = True
        if self._child is not None:
            self._child.terminate()

    def run(self, job: Job, words: list[str]) -> int:
        """Start torchrun on the step's entry point and wait for it; its status, or SIGTERM's if asked to end before."""
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(job.processes)]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(threads(job.processes)),
        }
        if self._asked:
            return 128 + signal.SIGTERM
        with subprocess.Popen([*command, "-m", job.module, *words], env=environment) as self._child:
            if self._asked:  # between the question and the start
                self._child.terminate()
            return self._child.wait()


def threads(processes: int) -> int:
    """Threads for each process: the node's cores shared out."""
    return max(1, len(os.sched_getaffinity(0)) // processes)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the process's exit code."""
    job = Job.parse((argv or sys.argv[1:])[0], name="JOB")
    rank = int(os.environ.get("PET_NODE_RANK") or 0)
    configure_logging(trace=os.environ.get("PIXELIS_RUN_ID", "-"), component=f"node.{rank}")
    try:
        with tempfile.TemporaryDirectory(prefix="pixelis-node-", dir=os.environ.get("PIXELIS_NODE_DIR")) as folder:
            return run(job, Path(folder), rank)
    except PixelisError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())

"""The digital twin as a source: renders everybody in parallel and lists the recordings.

Guarantee: the same configuration and seed give the same bytes, whatever the number of processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from queue import Queue

from components.data_synthesis.recordings.config import RecordingsConfig
from components.data_synthesis.recordings.twin.people import list_jobs
from components.shared.runtime.errors import StepError
from components.shared.runtime.progress import Progress
from components.shared.runtime.reproducibility import cpu_threads
from components.shared.work.manifest import Recording

_WORKER = "components.data_synthesis.recordings.twin.worker"


def render_twin(config: RecordingsConfig, recordings: Path, truth: Path) -> list[Recording]:
    """Render all recordings of the twin.

    Raises:
        StepError: a rendering process failed; carries the end of what it wrote.
    """
    jobs = list_jobs(config.twin)
    workers = min(config.workers or cpu_threads(), len(jobs))
    done: dict[int, Recording] = {}
    lines: Queue[str | None] = Queue()
    with tempfile.TemporaryFile("w+") as errors:
        processes = [
            _start(config, recordings, truth, list(range(k, len(jobs), workers)), errors) for k in range(workers)
        ]
        try:
            for process in processes:
                threading.Thread(target=_forward, args=(process, lines), daemon=True).start()
            bar, open_streams = Progress(len(jobs), "rendering recordings", unit="recordings"), workers
            while open_streams:
                line = lines.get()
                if line is None:
                    open_streams -= 1
                    continue
                message = json.loads(line)
                done[message["index"]] = Recording.model_validate(message["recording"])
                bar.advance()
            codes = [process.wait() for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        if any(codes) or len(done) != len(jobs):
            errors.seek(0)
            tail = errors.read()[-2000:].strip()
            raise StepError(
                f"recordings: rendering stopped after {len(done)} of {len(jobs)} (exit codes {codes}): {tail}",
                remedy="See the last line; a full disk and too little memory are the usual causes.",
            )
    return [done[index] for index in range(len(jobs))]


def _start(
    config: RecordingsConfig, recordings: Path, truth: Path, indices: list[int], errors: object
) -> subprocess.Popen[str]:
    order = {
        "config": config.twin.model_dump(mode="json"),
        "seed": config.seed,
        "recordings": str(recordings),
        "truth": str(truth),
        "indices": indices,
    }
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("PIXELIS_PROGRESS_FILE", None)
    process = subprocess.Popen(
        [sys.executable, "-m", _WORKER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,  # type: ignore[call-overload]
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(json.dumps(order))
    process.stdin.close()
    return process


def _forward(process: subprocess.Popen[str], lines: Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)

"""Starting the building process and taking over its result."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from components.ttrl.buffer.config import BufferConfig
from components.ttrl.buffer.disk import Disk
from components.ttrl.buffer.errors import ExperienceBufferError
from components.ttrl.buffer.index.kinds import Spec
from components.ttrl.buffer.state import State

log = logging.getLogger(__name__)
CURRENT = "current.index"
RETRY_S = 60.0
CHUNK = 512
"""Vectors copied at a time: the interpreter is held meanwhile, and commits wait for it."""


class Builder:
    """At most one building process; its files lie in `directory` and are deleted when it ends.

    Args:
        directory: The index folder.
        config: The buffer's section.
        state: Memory.
        disk: File layer.
    """

    def __init__(self, directory: Path, config: BufferConfig, state: State, disk: Disk) -> None:
        self.directory, self.config, self.state, self.disk = directory, config, state, disk
        self.process: subprocess.Popen[bytes] | None = None
        self.retry_at = 0.0

    def start(self, slots: np.ndarray, sequences: np.ndarray) -> None:
        """Begin building over the records in slots (n,) with sequence numbers (n,)."""
        self.directory.mkdir(exist_ok=True)
        vectors = self.directory / "vectors.tmp"
        with vectors.open("wb") as file:
            file.write(sequences.astype(np.int64).tobytes())
            for start in range(0, len(slots), CHUNK):  # rows that change meanwhile become stale and are not returned
                file.write(self.state.vectors.read(slots[start : start + CHUNK]).data)
        index = self.config.index
        spec = Spec(
            index.kind if index.kind != "auto" else "hnsw", self.config.dimension, index.metric == "euclidean",
            index.nprobe, index.hnsw_neighbours, index.hnsw_ef_construction, index.hnsw_ef_search,
            index.matryoshka_width, index.rerank,
        )  # fmt: skip
        order = {
            "kind": index.kind, "spec": asdict(spec), "count": len(slots), "vectors": str(vectors),
            "output": str(self.directory / "built.tmp"), "queries": index.recall_queries, "recall": index.min_recall,
        }  # fmt: skip
        path = self.directory / "order.tmp"
        path.write_text(json.dumps(order))
        root = Path(__file__).parents[4]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "components.ttrl.buffer.index.rebuild", str(path)],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def finished(self) -> bool:
        """Whether a process has ended and waits to be taken over."""
        return self.process is not None and self.process.poll() is not None

    def take(self) -> Path:
        """The index file of the ended process, in its final place.

        Raises:
            ExperienceBufferError: the process failed; the next may start in a minute.
        """
        process, self.process = self.process, None
        assert process is not None and process.stderr is not None
        complaint = process.stderr.read().decode(errors="replace").strip()[-500:]
        process.stderr.close()
        built, target = self.directory / "built.tmp", self.directory / CURRENT
        try:
            if process.returncode != 0:
                self.retry_at = time.monotonic() + RETRY_S
                raise ExperienceBufferError(
                    f"building the search index failed (exit {process.returncode}: {complaint}): searches stay exact.",
                    remedy="Memory is the usual reason; it is tried again in a minute.",
                )
            self.disk.rename(built, target)
            self.disk.sync_directory(self.directory)
        finally:
            for name in ("vectors.tmp", "order.tmp", "built.tmp"):
                (self.directory / name).unlink(missing_ok=True)
        return target

    def abandon(self, *, delete: bool) -> None:
        """End a running process; `delete` all of its and the index's files."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()
        if not self.directory.exists():
            return
        for path in self.directory.iterdir():
            if delete or path.suffix == ".tmp":
                path.unlink()
        if delete:
            self.disk.sync_directory(self.directory)

"""Fixtures of the tests of several nodes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture
def double(tmp_path: Path, store: Any) -> Iterator[Any]:
    """A cluster for TrainJobs whose nodes are real processes (trainer_double.py)."""
    from trainer_double import TrainerDouble, clean_environment, serve

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

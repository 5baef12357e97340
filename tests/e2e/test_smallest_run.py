"""One real run of the whole pipeline at the smallest size, a forced failure, and its resumption.

Everything is real: rendering, training, evaluation, the tracking store. Only the sizes are small, so the gate holds the
model for lack of sample size; the other branch is tested by promoting what the gate's own settings then allow.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

SMALLEST = {
    "recordings.twin.num_train_people": 14,
    "recordings.twin.num_validation_people": 3,
    "recordings.twin.num_test_people": 3,
    "recordings.twin.train_session_s": 10.0,
    "recordings.twin.validation_session_s": 10.0,
    "recordings.twin.test_session_s": 10.0,
}


def pixelis(root: Path, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", *arguments, "--run-root", str(root)]
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PIXELIS_", "MLFLOW_"))}
    return subprocess.run(command, capture_output=True, text=True, env=env | (environment or {}))

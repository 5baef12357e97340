"""Seeds and deterministic mode, the same for every entry point."""

from __future__ import annotations

import os
import random
import sys


def seed_everything(seed: int, *, deterministic: bool = False) -> None:
    """Seed Python and NumPy, and torch where it is already imported.

    `deterministic` also makes torch refuse algorithms whose result depends on scheduling. PYTHONHASHSEED and
    CUBLAS_WORKSPACE_CONFIG must be in the environment before the interpreter starts: `child_environment` sets them.
    """
    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)
        if deterministic:
            torch.use_deterministic_algorithms(True)


def child_environment(*, seed: int, deterministic: bool) -> dict[str, str]:
    """Environment variables that must be set before a step's interpreter starts."""
    if not deterministic:
        return {}
    return {"PYTHONHASHSEED": str(seed % 2**32), "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PIXELIS_DETERMINISTIC": "1"}


def cpu_threads() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)

"""Seeds, deterministic mode and the facts of the machine, the same for every entry point."""

from __future__ import annotations

import importlib.util
import logging
import os
import platform
import random
import sys

MARK = "PIXELIS_DETERMINISTIC"
log = logging.getLogger(__name__)


def seed_everything(seed: int, *, deterministic: bool = False) -> None:
    """Seed Python and NumPy, and torch where it is already imported.

    `deterministic` also makes torch (then imported, where installed) refuse algorithms whose result depends on
    scheduling. PYTHONHASHSEED and CUBLAS_WORKSPACE_CONFIG must be in the environment before the interpreter starts:
    `child_environment` gives them to children, `restart_deterministic` to this process.
    """
    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)
    if deterministic and importlib.util.find_spec("torch") is not None:
        import torch  # noqa: F401 - the line below finds it among the imported modules
    torch_module = sys.modules.get("torch")
    if torch_module is not None:
        torch_module.manual_seed(seed)
        if deterministic:
            torch_module.use_deterministic_algorithms(True)


def child_environment(*, seed: int, deterministic: bool) -> dict[str, str]:
    """Environment variables that must be set before a step's interpreter starts."""
    if not deterministic:
        return {}
    return {"PYTHONHASHSEED": str(seed % 2**32), "CUBLAS_WORKSPACE_CONFIG": ":4096:8", MARK: "1"}


def restart_deterministic(seed: int) -> None:
    """Replace this process by itself with the deterministic environment, unless it was started with it.

    Only for a process that has done nothing yet: whatever it holds in memory is lost, its id stays.
    """
    if os.environ.get(MARK) == "1":
        return
    sys.stdout.flush()
    sys.stderr.flush()
    environment = {**os.environ, **child_environment(seed=seed, deterministic=True)}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - our own command line


def restart_step(seed: int) -> None:
    """`restart_deterministic` in a pod's or the local runner's task process; nothing in any other process."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name == "kfp.dsl.executor_main":
        restart_deterministic(seed)


def system_facts() -> dict[str, str]:
    """What a result may depend on besides code, configuration and data."""
    from importlib.metadata import PackageNotFoundError, version

    facts = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "threads": str(cpu_threads()),
        "git_sha": os.environ.get("PIXELIS_GIT_SHA", ""),
    }
    if image := os.environ.get("PIXELIS_IMAGE"):  # an image says which one it is
        facts["image"] = image
    for name in ("torch", "transformers", "peft", "numpy", "kfp"):
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            continue
    for name in ("PYTHONHASHSEED", "CUBLAS_WORKSPACE_CONFIG", "OMP_NUM_THREADS", "WORLD_SIZE"):
        if value := os.environ.get(name):
            facts[name] = value
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        facts["gpu"] = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        facts["cuda"] = str(torch.version.cuda)
    return facts


def processor_name() -> str:
    """The processor's model, as Linux names it."""
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_threads() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)

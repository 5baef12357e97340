"""What this machine is and has, and what each profile would need of it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from components.shared.runtime.reproducibility import cpu_threads
from pipelines.config import compose, git_sha, profiles
from pipelines.steps import STEPS

LIBRARIES = (
    "kfp", "mlflow", "torch", "transformers", "peft", "bitsandbytes", "faiss-cpu", "webdataset", "decord", "av",
    "opencv-python-headless", "fastapi",
)  # fmt: skip
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def examine(root: Path) -> dict[str, Any]:
    """Facts of this machine: versions, ffmpeg, cores, memory, disk, GPUs."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    existing = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "commit": git_sha()[:12],
        "cores": cpu_threads(),
        "memory_bytes": memory_bytes(),
        "disk_free_bytes": shutil.disk_usage(existing).free,
        "gpus": gpus(),
        "ffmpeg": ffmpeg(),
        "versions": versions,
    }


def memory_bytes() -> int:
    """Memory this process may use: the machine's, or its control group's limit."""
    total = psutil.virtual_memory().total
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file():
        text = limit.read_text().strip()
        total = min(total, int(text)) if text.isdigit() else total
    return total


def gpus() -> list[str]:
    """Names and memory of NVIDIA GPUs, asked from the driver's own tool (torch is not imported)."""
    tool = shutil.which("nvidia-smi")
    if not tool:
        return []
    done = subprocess.run(
        [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"], capture_output=True, text=True
    )
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def ffmpeg() -> str:
    """Where FFmpeg is found and its version, or what to do."""
    from components.shared.video.ffmpeg import find_ffmpeg

    path = find_ffmpeg()
    done = subprocess.run([path, "-version"], capture_output=True, text=True)
    return f"{path} ({' '.join(done.stdout.split()[:3])})"


def size_bytes(text: str) -> int:
    """Bytes of a Kubernetes quantity such as `8Gi`."""
    return int(text[:-2]) * UNITS[text[-2:]]


def needs(profile: str) -> dict[str, Any]:
    """What a profile asks for: the largest request of its steps."""
    config = compose(profile, (), {})
    resources = {step.name: config.placement.resources(step.name) for step in STEPS}
    largest = max(resources.values(), key=lambda item: size_bytes(item.memory))
    accelerated = [name for name, item in resources.items() if item.accelerator]
    return {
        "memory_bytes": size_bytes(largest.memory),
        "cores": max(
            float(item.cpu.removesuffix("m")) / (1000 if item.cpu.endswith("m") else 1) for item in resources.values()
        ),
        "gpu": bool(accelerated),
        "gpu_steps": accelerated,
        "hub": config.base_model.kind == "hub",
    }


def missing(profile: str, facts: dict[str, Any]) -> list[str]:
    """What this machine lacks for a profile, empty where it has all."""
    wanted = needs(profile)
    lacks = []
    if facts["memory_bytes"] < wanted["memory_bytes"] * 0.95:
        lacks.append(f"{wanted['memory_bytes'] / 2**30:.0f} GiB memory (has {facts['memory_bytes'] / 2**30:.0f})")
    if facts["cores"] < wanted["cores"]:
        lacks.append(f"{wanted['cores']:g} cores (has {facts['cores']})")
    if wanted["gpu"] and not facts["gpus"]:
        lacks.append(f"a GPU for {', '.join(wanted['gpu_steps'])}")
    if wanted["gpu"] and facts["versions"]["bitsandbytes"] == "not installed":
        lacks.append("bitsandbytes (the gpu extra)")
    if wanted["hub"] and os.environ.get("HF_HUB_OFFLINE") == "1":
        lacks.append("the model hub (HF_HUB_OFFLINE=1 is set)")
    return lacks


def print_report(console: Console, root: Path) -> bool:
    """Print what was found; returns whether the default profile can run."""
    facts = examine(root)
    table = Table(show_header=False, box=None)
    for name in ("python", "platform", "commit", "cores"):
        table.add_row(name, str(facts[name]))
    table.add_row("memory", f"{facts['memory_bytes'] / 2**30:.1f} GiB")
    table.add_row("free disk", f"{facts['disk_free_bytes'] / 2**30:.1f} GiB under {root}")
    table.add_row("GPU", ", ".join(facts["gpus"]) or "none")
    table.add_row("ffmpeg", facts["ffmpeg"])
    for name, version in facts["versions"].items():
        table.add_row(name, version)
    console.print(table, highlight=False)
    ready = True
    for profile in profiles():
        lacks = missing(profile, facts)
        ready = ready and not (lacks and profile == "twin")
        console.print(
            f"profile {profile}: " + ("can run here" if not lacks else "needs " + "; ".join(lacks)), highlight=False
        )
    return ready

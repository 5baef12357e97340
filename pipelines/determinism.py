"""`pixelis verify-determinism STEP`: a step of a finished run, done twice again, must give the same bytes.

The step's own entry point (`python -m components.<step>`) runs twice in fresh interpreters with `--deterministic`, on
the inputs and the section that the run recorded, and the two results are compared file by file and figure by figure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.runtime.artifacts import read_json, sha256_file
from components.shared.runtime.config import canonical_json
from components.shared.runtime.errors import ConfigError, StepError
from components.shared.runtime.launch import option
from components.shared.runtime.records import StepRecord, load_records

CLOCK = ("seconds", "bytes", "_per_s")
"""Figures with such a name are measurements of the machine; they differ between any two executions."""


@dataclass(frozen=True)
class Verdict:
    """What two executions gave.

    Attributes:
        num_files: Files that were compared.
        num_figures: Figures that were compared.
        difference: The first difference in words, empty where there is none.
    """

    num_files: int
    num_figures: int
    difference: str


def steps_with_entry_point() -> list[str]:
    """Steps that can be run alone."""
    root = Path(__file__).parent.parent / "components"
    return sorted(path.parent.name for path in root.glob("*/__main__.py") if path.parent.name != "ttrl")


def verify(
    step: str, directory: Path, changes: dict[str, Any], *, keep: Path | None = None, say: Callable[[str], None] = print
) -> Verdict:
    """Run a step of the run in `directory` twice and compare.

    Args:
        step: A step with an entry point.
        directory: A run's directory.
        changes: Keys of the step's section over what the run used, dotted.
        keep: Folder that keeps both results; None removes them.
        say: Receives a line before each execution.

    Raises:
        ConfigError: no such step, or one that the run has not finished.
        StepError: an execution failed.
    """
    if step not in steps_with_entry_point():
        raise ConfigError(
            f"step {step!r} cannot be run alone; nothing was run.", remedy=f"Choose one of {steps_with_entry_point()}."
        )
    record = load_records(directory).get(step)
    if record is None or record.status != "SUCCEEDED":
        raise ConfigError(
            f"run {directory.name} has no finished step {step}, so there is nothing to repeat.",
            remedy="Choose a run whose summary lists the step as SUCCEEDED.",
        )
    config = changed(record.config, changes)
    folder = keep or Path(tempfile.mkdtemp(prefix="pixelis-determinism-"))
    try:
        for name in ("first", "second"):
            say(f"{step}: {name} execution")
            execute(step, record, config, folder / name)
        return compare(folder / "first", folder / "second")
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def changed(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A section with dotted keys replaced."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in config.items()}
    for name, value in changes.items():
        at = result
        *parents, last = name.split(".")
        for parent in parents:
            at[parent] = dict(at.get(parent) or {})
            at = at[parent]
        at[last] = value
    return result


def execute(step: str, record: StepRecord, config: dict[str, Any], folder: Path) -> None:
    """One execution into `folder`: an artifact a folder, `report.json`, `log.txt`."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", f"components.{step}", "--deterministic", "--section", canonical_json(config)]
    for name, items in record.inputs.items():
        command += [option(name), items[0].uri]
    for name in (*record.outputs, "work"):
        command += [option(name, beside=record.inputs), str(folder / name)]
    command += ["--report", str(folder / "report.json")]
    environment = {name: value for name, value in os.environ.items() if name != "PIXELIS_RUN_DIR"}
    with open(folder / "log.txt", "wb") as log:
        status = subprocess.run(command, env=environment, stdout=log, stderr=log).returncode
    if status:
        tail = "\n".join((folder / "log.txt").read_text(errors="replace").splitlines()[-15:])
        raise StepError(f"step {step} ended with status {status}:\n{tail}")
    shutil.rmtree(folder / "work", ignore_errors=True)


def compare(first: Path, second: Path) -> Verdict:
    """The first difference between two executions' files, then between their figures."""
    names = [sorted(files(folder)) for folder in (first, second)]
    figures = [dict(leaves(read_json(folder / "report.json"))) for folder in (first, second)]
    return Verdict(len(names[0]), len(figures[0]), difference(first, second, names, figures))


def difference(first: Path, second: Path, names: list[list[str]], figures: list[dict[str, Any]]) -> str:
    """The first difference in words, empty where there is none."""
    for name in sorted(set(names[0]) ^ set(names[1])):
        return f"{name} was made by one execution only"
    for name in names[0]:
        one, other = (sha256_file(folder / name) for folder in (first, second))
        if one != other:
            return f"{name} has sha256 {one[:12]} in the first and {other[:12]} in the second execution"
    for key in sorted(figures[0].keys() | figures[1].keys()):
        if figures[0].get(key) != figures[1].get(key):
            return f"{key} is {figures[0].get(key)!r} in the first and {figures[1].get(key)!r} in the second execution"
    return ""


def files(folder: Path) -> Iterable[str]:
    """Names of all files of the artifacts."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in ("report.json", "log.txt"):
            yield name


def leaves(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted name, number or text) of a report, without texts that show figures again and without the clock's."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in ("markdown", "pictures"):
                yield from leaves(item, f"{prefix}{key}.")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, f"{prefix}{index}.")
    elif not any(word in prefix.rstrip(".").rpartition(".")[2] for word in CLOCK):
        yield prefix.rstrip("."), value

"""A step's entry point without Kubeflow: `python -m components.sft --section JSON --base DIR … --adapter DIR`.

Role: what `torchrun`, a training job of several nodes, `pixelis verify-determinism` and a person at a terminal start.
Options: `--section` (canonical JSON, or `@file`), `--seed` and `--deterministic` over it, one option for every input
and output of the verb (`_` becomes `-`, an output with an input's name is `--out-NAME`, `--work` survives a kill),
`--report FILE` for the report as JSON.
Guarantees: with `--deterministic` the interpreter is started again with PYTHONHASHSEED and CUBLAS_WORKSPACE_CONFIG
set; an output folder appears whole or not at all, written by rank 0 alone.
Not done here: records, lineage and MLflow runs, which belong to the pipeline's step (step.py).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from components.shared.runtime.artifacts import staged_directory
from components.shared.runtime.config import StepSection
from components.shared.runtime.errors import ConfigError, PixelisError
from components.shared.runtime.launch import option, rank
from components.shared.runtime.logs import configure_logging
from components.shared.runtime.report import Report, write_report
from components.shared.runtime.reproducibility import restart_deterministic, seed_everything, system_facts
from components.shared.runtime.step import WORK, die_with

log = logging.getLogger(__name__)


def main(
    name: str,
    verb: Callable[..., Report],
    section: type[StepSection],
    inputs: type,
    outputs: type,
    argv: Sequence[str] | None = None,
) -> None:
    """Run a verb on the command line's section and folders; exits with the error's code where it fails as expected."""
    given = parser(name, section, inputs, outputs).parse_args(argv)
    try:
        config = read_section(given, name, section)
        if config.deterministic:
            restart_deterministic(config.seed)
        report = run(name, verb, config, (inputs, outputs), given)
    except PixelisError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    if rank() == 0:
        if given.report:
            write_report(report, given.report)
        print("\n".join(f"{key}: {value:g}" for key, value in report.metrics.items()))


def parser(name: str, section: type[StepSection], inputs: type, outputs: type) -> argparse.ArgumentParser:
    """The options of a step."""
    made = argparse.ArgumentParser(f"python -m components.{name}", description=f"Run the verb of step {name} alone.")
    made.add_argument("--section", default="{}", metavar="JSON", help=f"the section ({section.__name__}), or @FILE")
    made.add_argument("--seed", type=int, help="over the section's seed")
    made.add_argument("--deterministic", action="store_true", help="refuse algorithms that depend on scheduling")
    made.add_argument("--report", type=Path, metavar="FILE", help="write the report as JSON")
    for field in dataclasses.fields(inputs):
        optional = field.default is not dataclasses.MISSING
        made.add_argument(option(field.name), type=Path, required=not optional, metavar="DIR", help="input")
    known = {field.name for field in dataclasses.fields(inputs)}
    for field in dataclasses.fields(outputs):
        text = "kept between attempts" if field.name == WORK else "output"
        name = option(field.name, beside=known)
        made.add_argument(name, dest=f"out_{field.name}", type=Path, required=True, metavar="DIR", help=text)
    return made


def read_section(given: argparse.Namespace, name: str, section: type[StepSection]) -> Any:
    """The section with the options laid over it.

    Raises:
        ConfigError: unreadable, or a key or value that cannot be used.
    """
    text = given.section
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text()
        except OSError as error:
            raise ConfigError(f"--section {text}: {error.strerror}.", remedy="Give JSON, or @ and a file.") from error
    config = section.parse(text, name=name)
    changes: dict[str, Any] = {"seed": given.seed} if given.seed is not None else {}
    changes |= {"deterministic": True} if given.deterministic else {}
    return section.model_validate(config.model_dump() | changes)


def run(
    name: str, verb: Callable[..., Report], config: Any, kinds: tuple[type, type], given: argparse.Namespace
) -> Report:
    """Seed, stage the outputs (rank 0; other ranks write into a folder that is thrown away), call the verb."""
    component = name if rank() == 0 else f"{name}.{rank()}"
    configure_logging(trace=os.environ.get("PIXELIS_RUN_ID", "alone"), component=component)
    if runner := os.environ.get("PIXELIS_RUNNER_PID"):
        threading.Thread(target=die_with, args=(int(runner),), daemon=True, name="die-with-runner").start()
    if rank():
        os.environ.pop("PIXELIS_PROGRESS_FILE", None)
    seed_everything(config.seed, deterministic=config.deterministic)
    log.info("system: %s", system_facts())
    with contextlib.ExitStack() as stack:
        folders: dict[str, Path] = {}
        for field in dataclasses.fields(kinds[1]):
            target = output(given, field.name)
            if field.name == WORK:
                target.mkdir(parents=True, exist_ok=True)
                folders[field.name] = target
            elif rank():
                folders[field.name] = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            else:
                folders[field.name] = stack.enter_context(staged_directory(target))
        read = {
            field.name: getattr(given, field.name)
            for field in dataclasses.fields(kinds[0])
            if getattr(given, field.name) is not None
        }
        report = verb(config, kinds[0](**read), kinds[1](**folders))
        report.pictures = {text: moved(path, folders, given) for text, path in report.pictures.items()}
    return report


def moved(path: Path, folders: dict[str, Path], given: argparse.Namespace) -> Path:
    """Where a staged picture is once its folder has its name."""
    for name, folder in folders.items():
        if path.is_relative_to(folder):
            return output(given, name) / path.relative_to(folder)
    return path


def output(given: argparse.Namespace, name: str) -> Path:
    """Where an output goes."""
    return Path(getattr(given, f"out_{name}")).absolute()

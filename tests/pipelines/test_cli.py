"""The command line on wrong input: the thing, the value, what follows, what to do; an exit code, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def pixelis(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    config = str(Path(__file__).parents[2] / "pipeline_config.yaml")
    return subprocess.run(
        [sys.executable, "-c", "from pipelines.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PIXELIS_CONFIG": config, "COLUMNS": "200"},
    )


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("compile --output file", 2, "--output file does not end with .yaml"),
        ("compile --output file/x.yaml", 5, "file: file exists"),
        ("compile --set recordings.source=segments", 2, "error: recordings: recordings.path must name a folder"),
        ("compile --set run.seed=-1", 2, "error: run.seed = -1: input should be greater than or equal to 0; nothing"),
        ("verify-determinism sft --set learning_rate", 2, "--set 'learning_rate' is not of the form key=value"),
        ("verify-determinism sft --keep .", 2, "--keep . is not a new folder"),
        ("ttrl serve nowhere", 3, "nowhere holds no promoted model"),
        ("shards verify file", 4, "file/index.json is missing"),
        ("buffer import here nowhere", 2, "file 'nowhere' does not exist"),
    ],
)
def test_wrong_input_is_explained(tmp_path: Path, command: str, code: int, said: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "run-1").mkdir()
    (tmp_path / "run-1" / "request.json").write_text("{}")
    more = ["--run-root", str(tmp_path)] if command.startswith("verify") else []
    done = pixelis(*command.split(), *more, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_compiled_pipeline_goes_into_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    done = pixelis("compile", "--output", "build/twin.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "build" / "twin.yaml").stat().st_size > 10_000

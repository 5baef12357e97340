"""The command line on wrong input: the thing, the value, what follows, what to do; an exit code, never a traceback."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import psutil
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
        ("buffer verify nowhere", 8, "nowhere is not an experience buffer"),
        ("status nowhere", 2, "run 'nowhere' does not exist"),
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


def test_the_list_of_commands_starts_with_run_and_cuts_no_sentence(tmp_path: Path) -> None:
    for group in ((), ("ttrl",), ("buffer",), ("operations",), ("shards",)):
        listed = run_narrow(*group, "--help", cwd=tmp_path).split("Commands:\n")[1]
        assert "..." not in listed, listed
    first = run_narrow("--help", cwd=tmp_path).split("Commands:\n")[1].split()[0]
    assert first == "run"


def run_narrow(*arguments: str, cwd: Path) -> str:
    return subprocess.run(
        [sys.executable, "-c", "from pipelines.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "80", "TERMINAL_WIDTH": "80"},
    ).stdout


def test_an_output_that_takes_nothing_is_told_in_a_line(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", "from pipelines.cli import main; main()", "operations", "list", "--schema"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
    assert (done.returncode, done.stderr.count("\n")) == (5, 1), done.stderr
    assert "no space left on device" in done.stderr


def test_the_version_names_the_commit(tmp_path: Path) -> None:
    assert re.fullmatch(r"pixelis \d+\.\d+\S*, commit \w+\n", pixelis("--version", cwd=tmp_path).stdout)


def test_a_taken_port_is_told_before_the_tracking_page_starts(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = pixelis("mlflow", "--port", str(port), cwd=tmp_path)
    assert done.returncode == 5
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


AT_A_TERMINAL = """
import signal

from pipelines.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""
"""A shell's background job, which the tests may be part of, ignores Ctrl-C, and all that it starts does."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_run_that_is_stopped_says_so_and_leaves_a_summary(tmp_path: Path, number: signal.Signals) -> None:
    root = tmp_path / "runs"
    process = subprocess.Popen(
        [sys.executable, "-c", AT_A_TERMINAL, "run", "--until", "recordings"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PIXELIS_CONFIG": str(Path(__file__).parents[2] / "pipeline_config.yaml")},
        start_new_session=True,
    )
    assert process.stdout is not None
    while "recordings: started" not in (line := process.stdout.readline()):
        assert line, "the run ended before its second step"
    state = pixelis("status", cwd=tmp_path).stdout
    assert "at work" in state
    if number == signal.SIGINT:  # a terminal sends Ctrl-C to the whole group
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Stopped. Finished steps are kept; go on with: pixelis run --resume" in said
    [summary] = root.glob("*/summary.json")
    told = json.loads(summary.read_text())
    assert told["status"] == "STOPPED"
    assert {row["name"]: row["status"] for row in told["steps"]}["recordings"] == "STOPPED"
    with sqlite3.connect(root / "mlflow.db") as store:
        assert {state for (state,) in store.execute("SELECT status FROM runs")} == {"KILLED"}
    assert "STOPPED" in pixelis("status", cwd=tmp_path).stdout
    assert not [one for one in psutil.process_iter(["cwd"]) if str(one.info["cwd"]).startswith(str(tmp_path))]


def test_a_run_that_was_killed_is_told_as_cut_off(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "20260101-000000-0000"
    (run / "steps").mkdir(parents=True)
    (run / "request.json").write_text(json.dumps({"profile": "twin", "overrides": [], "until": "", "runner": ""}))
    record = {"step": "sft", "status": "RUNNING", "started": 1.0, "seconds": 0.0, "metrics": {}}
    (run / "steps" / "sft.json").write_text(json.dumps(record))
    done = pixelis("status", cwd=tmp_path)
    assert done.stdout.splitlines() == [
        f"Run {run.name}: cut off; go on with: pixelis run --resume {run.name}",
        "  sft: cut off",
    ]

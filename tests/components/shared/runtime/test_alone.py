"""A step's entry point: options from the verb's dataclasses, whole outputs, deterministic environment, many ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

STEP = """
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from components.shared.runtime.alone import main
from components.shared.runtime.config import StepSection
from components.shared.runtime.errors import InputError
from components.shared.runtime.launch import in_group, launch, wanted
from components.shared.runtime.report import Report


class Section(StepSection):
    text: str = "hello"
    num_processes: int = 1


@dataclass(frozen=True)
class Inputs:
    adapter: Path
    extra: Path | None = None


@dataclass(frozen=True)
class Outputs:
    adapter: Path
    work: Path


def verb(config, inputs, outputs):
    if wanted(config.num_processes, "cpu") > 1 and not in_group():
        return launch("toy_step", config, inputs, outputs, config.num_processes)
    if not inputs.adapter.is_dir():
        raise InputError("no adapter folder.", remedy="Give one.")
    (outputs.adapter / "text").write_text(f"{config.text} {config.seed}")
    (outputs.work / f"rank-{os.environ.get('RANK', 'none')}").write_text(os.environ.get("PYTHONHASHSEED", ""))
    if config.text == "die":
        raise RuntimeError("dead")
    return Report(metrics={"hash": float(hash("x") % 1000)}, curves={"loss": [(1.0, 2.0)]},
                  pictures={"a": outputs.adapter / "text"})


if __name__ == "__main__":
    main("toy", verb, Section, Inputs, Outputs)
"""


@pytest.fixture
def call(tmp_path):
    (tmp_path / "toy_step.py").write_text(STEP)
    (tmp_path / "source").mkdir()
    root = Path(__file__).parents[4]

    def run(*arguments, source="source"):
        command = [sys.executable, "-m", "toy_step", "--adapter", tmp_path / source, "--out-adapter", tmp_path / "made",
                   "--work", tmp_path / "work", "--report", tmp_path / "report.json", *arguments]  # fmt: skip
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONHASHSEED", "PIXELIS_DETERMINISTIC")}
        environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{root}"
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)

    return run


def test_an_input_and_an_output_of_one_name_and_options_over_the_section(call, tmp_path):
    done = call("--section", '{"text": "good", "seed": 3}', "--seed", "7")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made/text").read_text() == "good 7"
    assert list((tmp_path / "work").iterdir()) == [tmp_path / "work/rank-none"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["pictures"] == {"a": str(tmp_path / "made/text")}
    assert "system: {'python'" in done.stderr


def test_deterministic_starts_the_interpreter_again_with_a_fixed_hash_seed(call, tmp_path):
    hashes = []
    for _ in range(2):
        assert call("--deterministic", "--seed", "5").returncode == 0
        assert (tmp_path / "work/rank-none").read_text() == "5"
        hashes.append(json.loads((tmp_path / "report.json").read_text())["metrics"]["hash"])
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    "arguments, source, code, words",
    [
        (["--section", '{"nothing": 1}'], "source", 2, "toy.nothing = 1: no such key"),
        (["--section", "@/nowhere.json"], "source", 2, "No such file"),
        ([], "missing", 3, "no adapter folder. Give one."),
        (["--section", '{"text": "die"}'], "source", 1, "RuntimeError: dead"),
    ],
)
def test_failures_leave_no_output_and_say_why(call, tmp_path, arguments, source, code, words):
    done = call(*arguments, source=source)
    assert done.returncode == code
    assert words in done.stderr
    assert not (tmp_path / "made").exists()
    assert not list(tmp_path.glob(".made*"))


def test_several_processes_write_once_and_report_once(call, tmp_path):
    done = call("--section", '{"num_processes": 2, "text": "both"}')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made/text").read_text() == "both 0"
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["rank-0", "rank-1"]
    assert json.loads((tmp_path / "report.json").read_text())["curves"] == {"loss": [[1.0, 2.0]]}


def test_a_rank_that_fails_ends_the_step(call, tmp_path):
    done = call("--section", '{"num_processes": 2, "text": "die"}')
    assert done.returncode == 6
    assert "toy_step in 2 processes ended with status 1" in done.stderr
    assert not (tmp_path / "made").exists()

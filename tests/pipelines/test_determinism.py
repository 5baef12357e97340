"""Two executions compared: the first difference is named, the clock's figures are not compared."""

import json

import pytest

from components.shared.runtime.errors import ConfigError
from components.shared.runtime.records import StepRecord
from pipelines import determinism
from pipelines.determinism import changed, compare, verify


def write(folder, data=b"same", **report):
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "weights").write_bytes(data)
    base = {"metrics": {"loss": 1.5, "train_seconds": 3.0}, "curves": {"loss": [[1, 2.0]]}, "markdown": "3 s"}
    (folder / "report.json").write_text(json.dumps(base | report))
    (folder / "log.txt").write_text(str(folder))
    return folder


def test_equal_executions(tmp_path):
    clock = {"metrics": {"loss": 1.5, "train_seconds": 4.0, "seconds_an_update": 2.0}, "markdown": "4 s"}
    verdict = compare(write(tmp_path / "a"), write(tmp_path / "b", **clock))
    assert (verdict.difference, verdict.num_files, verdict.num_figures) == ("", 1, 3)


CASES = {
    "another byte": ({"data": b"Same"}, "adapter/weights has sha256"),
    "another figure": ({"metrics": {"loss": 1.6, "train_seconds": 3.0}}, "metrics.loss is 1.5 in the first and 1.6"),
    "another point of a curve": ({"curves": {"loss": [[1, 2.5]]}}, "curves.loss.0.1 is 2.0 in the first and 2.5"),
    "a figure that is missing": ({"metrics": {"train_seconds": 3.0}}, "metrics.loss is 1.5 in the first and None"),
}


@pytest.mark.parametrize("changes, words", CASES.values(), ids=CASES.keys())
def test_the_first_difference_is_named(tmp_path, changes, words):
    assert words in compare(write(tmp_path / "a"), write(tmp_path / "b", **changes)).difference


def test_a_file_of_one_execution_only(tmp_path):
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    (second / "adapter" / "more").write_bytes(b"")
    assert compare(first, second).difference == "adapter/more was made by one execution only"


def test_keys_are_laid_over_the_section_without_changing_the_record():
    config = {"steps": 5, "curriculum": {"window": 3}}
    assert changed(config, {"steps": 1, "curriculum.window": 1}) == {"steps": 1, "curriculum": {"window": 1}}
    assert config == {"steps": 5, "curriculum": {"window": 3}}


def test_what_cannot_be_repeated_is_refused(tmp_path, monkeypatch):
    assert determinism.steps_with_entry_point() == ["alignment", "base_model", "rft", "sft"]
    with pytest.raises(ConfigError, match="'gate' cannot be run alone"):
        verify("gate", tmp_path, {})
    monkeypatch.setattr(determinism, "load_records", lambda folder: {"sft": StepRecord("sft", "r", status="FAILED")})
    with pytest.raises(ConfigError, match="no finished step sft"):
        verify("sft", tmp_path, {})

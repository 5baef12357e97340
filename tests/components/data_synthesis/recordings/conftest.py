"""A small twin, rendered once for all tests of this folder."""

import copy
from pathlib import Path

import pytest

from components.data_synthesis.recordings.config import RecordingsConfig
from components.data_synthesis.recordings.read import RecordingsInputs, RecordingsOutputs, read_recordings
from components.shared.runtime.report import Report

SMALL = {
    "seed": 3,
    "workers": 2,
    "twin": {
        "num_train_people": 4,
        "num_validation_people": 1,
        "num_test_people": 1,
        "train_session_s": 6,
        "validation_session_s": 4,
        "test_session_s": 6,
    },
}


def render(folder: Path, settings: dict) -> tuple[RecordingsOutputs, Report]:
    outputs = RecordingsOutputs(folder / "recordings", folder / "truth")
    outputs.recordings.mkdir(parents=True)
    outputs.truth.mkdir(parents=True)
    return outputs, read_recordings(RecordingsConfig.model_validate(settings), RecordingsInputs(), outputs)


@pytest.fixture(scope="session")
def small_twin(tmp_path_factory: pytest.TempPathFactory) -> tuple[RecordingsOutputs, Report]:
    return render(tmp_path_factory.mktemp("twin"), SMALL)


@pytest.fixture
def run_recordings():
    """Runs the step with settings into a folder; returns outputs and report."""
    return render


@pytest.fixture
def small_settings() -> dict:
    """Settings of `small_twin`, to be changed by a test."""
    return copy.deepcopy(SMALL)

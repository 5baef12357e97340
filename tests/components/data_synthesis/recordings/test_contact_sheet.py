"""The contact sheet: whole or not at all, within its limits, and what a broken video does to it."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.data_synthesis.recordings.contact_sheet import WIDTH, draw_in_child, made_small, pictures_at
from components.shared.video.random_access import read_frames
from components.shared.work.manifest import load_manifest

DIES_WHILE_WRITING = """
import os, signal
from matplotlib.figure import Figure

def savefig(self, path, **options):
    with open(path, "wb") as file:
        file.write(bytes([137]) + b"PNG half a picture")
    os.kill(os.getpid(), signal.SIGKILL)

Figure.savefig = savefig
"""


@pytest.fixture
def artifact(small_twin, tmp_path: Path) -> Path:
    """A copy of a small twin's recordings, without its sheet."""
    root = tmp_path / "recordings"
    shutil.copytree(small_twin[0].recordings, root)
    (root / "contact_sheet.png").unlink()
    return root


def test_a_child_that_dies_while_it_writes_leaves_nothing(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(DIES_WHILE_WRITING)
    monkeypatch.setenv("PYTHONPATH", str(hook))
    before = sorted(artifact.rglob("*"))
    assert draw_in_child(artifact, artifact / "contact_sheet.png") is None
    assert "no contact sheet (exit status -9)" in caplog.text
    assert sorted(artifact.rglob("*")) == before


@pytest.mark.parametrize(
    ("limits", "said"), [({"memory_bytes": 400 * 2**20}, "exit status"), ({"time_limit_s": 0.2}, "more than 0.2 s")]
)
def test_its_limits_hold(artifact: Path, caplog: pytest.LogCaptureFixture, limits: dict, said: str) -> None:
    assert draw_in_child(artifact, artifact / "contact_sheet.png", **limits) is None
    assert "no contact sheet" in caplog.text and said in caplog.text
    assert not (artifact / "contact_sheet.png").exists()


def test_a_broken_video_costs_its_own_pictures_only(artifact: Path) -> None:
    whole = draw_in_child(artifact, artifact / "whole.png")
    assert whole is not None
    (first, *_) = load_manifest(artifact).recordings
    (artifact / first.video).write_bytes(b"no video any more")
    sheet = draw_in_child(artifact, artifact / "contact_sheet.png")
    assert sheet is not None
    pictures = [cv2.imread(str(path)) for path in (whole, sheet)]
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).any()


def test_pictures_are_those_of_the_moments_and_small(artifact: Path) -> None:
    manifest = load_manifest(artifact)
    recording = manifest.recordings[0]
    times_s = [1.0, 2.0, 3.0]
    found = pictures_at(manifest, recording, artifact, times_s)
    assert np.array_equal(np.stack(found), read_frames(artifact / recording.video, times_s))
    assert made_small(np.zeros((3000, 4000, 3), np.uint8)).shape == (360, WIDTH, 3)

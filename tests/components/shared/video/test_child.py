"""Untrusted media are decoded in a child: right frames, and every failure named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from components.shared.runtime.errors import InputError
from components.shared.video.child import SampleRequest, sample_in_child
from components.shared.video.random_access import read_frames

MakeVideo = Callable[..., Path]


def test_the_childs_frames_are_the_recordings(make_video: MakeVideo) -> None:
    path = make_video(num_frames=100)
    sampled = sample_in_child(SampleRequest(path=str(path), start_s=1.0, duration_s=2.0, num_frames=6))
    assert sampled.frames.shape == (6, 48, 64, 3)
    assert sampled.times_s == (0.0, 0.4, 0.8, 1.16, 1.56, 1.96)
    assert sampled.padded_s == 0
    truth = read_frames(path, [1.0 + time_s for time_s in sampled.times_s])
    assert np.abs(sampled.frames.astype(int) - truth).mean() < 2


def test_short_recordings_freeze_their_last_frame(make_video: MakeVideo) -> None:
    sampled = sample_in_child(SampleRequest(path=str(make_video(num_frames=50)), sampler="motion"))
    assert sampled.padded_s == 3.0
    assert len(sampled.frames) == 16
    assert np.array_equal(sampled.frames[-1], sampled.frames[-2])


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_pixels": 1000}, "64x48 is above 1000 pixels"),
        ({"max_duration_s": 1.0}, "above 1 s"),
        ({"start_s": 60.0}, "ends before the window"),
        ({"memory_bytes": 60_000_000}, "decoder died|more memory"),
    ],
)
def test_limits_hold(make_video: MakeVideo, limits: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        sample_in_child(SampleRequest.model_validate({"path": str(make_video(num_frames=50)), **limits}))


def test_a_hanging_decoder_is_stopped(make_video: MakeVideo) -> None:
    with pytest.raises(InputError, match=r"took more than 0\.01 s"):
        sample_in_child(SampleRequest(path=str(make_video())), timeout_s=0.01)


def test_every_malformed_file_is_refused_in_a_child(shared_data: Path) -> None:
    for path in sorted((shared_data / "malformed/videos").iterdir()):
        if path.name == "decord_corrupted.mp4":
            continue  # 28 good frames before the damage: see below
        with pytest.raises(InputError, match=path.name):
            sample_in_child(SampleRequest(path=str(path)))


def test_damage_inside_the_window_is_refused(shared_data: Path) -> None:
    path = shared_data / "malformed/videos/decord_corrupted.mp4"
    with pytest.raises(InputError, match="damaged after"):
        sample_in_child(SampleRequest(path=str(path)))
    before = sample_in_child(SampleRequest(path=str(path), duration_s=2.0))
    assert before.frames.shape == (16, 720, 1280, 3)

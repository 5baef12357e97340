"""Frames come with right times or not at all: own files, and every real and malformed one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from components.shared.encoders.audio import decode_audio
from components.shared.runtime.errors import EnvironmentFault, InputError
from components.shared.video import ffmpeg
from components.shared.video.audio import AudioWindows, encode_flac, read_audio
from components.shared.video.ffmpeg import find_ffmpeg
from components.shared.video.normalise import is_normal, normalised_frames, piped_frames
from components.shared.video.probe import probe
from components.shared.video.random_access import read_frames
from components.shared.video.scan import scan_video

MakeVideo = Callable[..., Path]


def grey(index: float) -> float:
    """Luma of make_video's frame `index` (studio range)."""
    return 16 + (40 + 2 * index) * 219 / 255


def lumas(frames: object) -> np.ndarray:
    return np.array([frame.luma().mean() for frame in frames])  # type: ignore[attr-defined]


def test_a_normal_file_is_used_as_it_is(make_video: MakeVideo) -> None:
    path = make_video(num_frames=50)
    info = probe(path)
    assert is_normal(info)
    frames = list(normalised_frames(path))
    assert [frame.index for frame in frames] == list(range(50))
    assert lumas(frames) == pytest.approx([grey(n) for n in range(50)], abs=1.5)
    assert frames[10].bgr().shape == (48, 64, 3)
    assert frames[10].bgr().mean() == pytest.approx(60, abs=2)


def test_both_paths_agree(make_video: MakeVideo) -> None:
    path = make_video(num_frames=50)
    direct, piped = list(normalised_frames(path)), list(piped_frames(path, probe(path)))
    assert len(direct) == len(piped) == 50
    assert np.abs(lumas(direct) - lumas(piped)).max() < 1
    assert np.abs(direct[20].bgr().astype(int) - piped[20].bgr()).max() <= 2


@pytest.mark.parametrize("rate", [10, 30, 50])
def test_other_rates_are_resampled_by_time(make_video: MakeVideo, rate: int) -> None:
    path = make_video(num_frames=60, rate=rate)
    assert not is_normal(probe(path))
    frames = list(normalised_frames(path))
    assert len(frames) == pytest.approx(60 / rate * 25, abs=1)
    expected = [grey(n / 25 * rate) for n in range(len(frames))]
    assert np.abs(lumas(frames) - expected).max() <= 2 * 219 / 255 * max(0.55, rate / 25 * 0.55) + 1.5


def test_variable_rate_is_placed_by_time(make_video: MakeVideo) -> None:
    times = [n * 40 if n < 20 else 800 + (n - 20) * 120 for n in range(40)]
    path = make_video(num_frames=40, times=times)
    assert not is_normal(probe(path))
    frames = list(normalised_frames(path))
    assert len(frames) == pytest.approx(3.2 * 25, abs=4)
    levels = lumas(frames)
    assert levels[10] == pytest.approx(grey(10), abs=1.5)
    assert levels[50] == pytest.approx(grey(30), abs=3.6)  # 2.0 s: frame 30 by time, frame 50 would be far off


def test_rotation_is_applied_on_every_path(make_video: MakeVideo, tmp_path: Path) -> None:
    plain = make_video(num_frames=10, size=(64, 48))
    turned = tmp_path / "turned.mp4"
    command = [find_ffmpeg(), "-loglevel", "error", "-display_rotation", "90", "-i", str(plain), "-c", "copy"]
    subprocess.run([*command, str(turned)], check=True)
    info = probe(turned)
    assert (info.width, info.height, info.rotation) == (48, 64, 90)
    assert next(iter(normalised_frames(turned))).bgr().shape == (64, 48, 3)
    assert next(iter(scan_video(turned)))[1].bgr().shape == (64, 48, 3)
    assert read_frames(turned, [0.0]).shape == (1, 64, 48, 3)


def test_rotated_pixels_agree_between_decoders(tmp_path: Path) -> None:
    import av

    path, turned = tmp_path / "mark.mp4", tmp_path / "turned.mp4"
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32] = 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    command = [find_ffmpeg(), "-loglevel", "error", "-display_rotation", "90", "-i", str(path), "-c", "copy"]
    subprocess.run([*command, str(turned)], check=True)
    ours = next(iter(scan_video(turned)))[1].bgr()
    ffmpegs = next(iter(piped_frames(turned, probe(turned)))).bgr()
    assert np.abs(ours.astype(int) - ffmpegs).mean() < 5


def test_times_start_at_zero_whatever_the_file_says(make_video: MakeVideo) -> None:
    path = make_video(num_frames=20, times=[700 + 40 * n for n in range(20)])
    assert [time for time, _ in scan_video(path)] == pytest.approx([n / 25 for n in range(20)], abs=1e-3)
    assert len(list(normalised_frames(path))) == 20


def test_random_access_gives_the_frame_on_screen(make_video: MakeVideo) -> None:
    path = make_video(num_frames=50, rate=25)
    frames = read_frames(path, [0.0, 0.41, 1.99, 0.41])
    assert frames.mean(axis=(1, 2, 3)) == pytest.approx([40, 60, 138, 60], abs=2)
    with pytest.raises(InputError, match=r"outside of its 2\.000 s"):
        read_frames(path, [2.5])


def test_random_access_falls_back_where_decord_errs(shared_data: Path) -> None:
    frames = read_frames(shared_data / "clips/nasa_13013.mp4", [0.0, 5.0])
    assert frames.shape == (2, 270, 480, 3)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("b-frames.mp4", ["-c:v", "libx264", "-bf", "3", "-g", "30"]),
        ("open-groups.mp4", ["-c:v", "libx264", "-bf", "2", "-g", "10", "-x264-params", "open-gop=1"]),
        ("late-start.mp4", ["-c:v", "libx264", "-bf", "0", "-output_ts_offset", "7"]),
        ("all-keys.mp4", ["-c:v", "mjpeg", "-pix_fmt", "yuvj420p"]),
        ("fragments.mp4", ["-c:v", "libx264", "-g", "10", "-movflags", "frag_keyframe+empty_moov"]),
        ("no-count.mkv", ["-c:v", "libx264", "-bf", "2"]),
        ("stream.ts", ["-c:v", "libx264", "-bf", "2", "-f", "mpegts"]),
    ],
)
def test_going_back_in_an_open_file_loses_no_frame(tmp_path: Path, name: str, arguments: list[str]) -> None:
    """Reading a file's times and going back gives what a second opening gives, frame by frame."""
    path = tmp_path / name
    source = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=2", "-f", "lavfi", "-i", "sine=duration=2"]
    subprocess.run([find_ffmpeg(), "-v", "error", *source, *arguments, "-c:a", "aac", str(path)], check=True)
    fresh = [frame.bgr() for _, frame in scan_video(path)]
    assert len(fresh) == 50
    for info in (None, probe(path)):
        frames = list(normalised_frames(path, info=info))
        assert [frame.index for frame in frames] == list(range(50))
        assert all(np.array_equal(frame.bgr(), other) for frame, other in zip(frames, fresh, strict=True))


def test_a_truncated_file_is_refused(make_video: MakeVideo) -> None:
    path = make_video(num_frames=50)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # the index of an mp4 stands at its end
    with pytest.raises(InputError, match=r"a\.mp4: cannot be decoded"):
        probe(path)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs\n", b"\x00" * 5000], ids=["empty", "text", "zeros"])
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.mp4"):
        list(normalised_frames(path))
    with pytest.raises(InputError, match="missing"):
        probe(tmp_path / "nothing.mp4")


def test_sound_alone_is_no_video(shared_data: Path) -> None:
    with pytest.raises(InputError, match="no video stream"):
        probe(next((shared_data / "audio/esc10").rglob("*.ogg")))


def test_audio_windows_are_the_track_and_flac_loses_nothing(make_video: MakeVideo) -> None:
    path = make_video(num_frames=75, audio=True)
    track = np.concatenate(list(read_audio(path)))
    windows = AudioWindows(path)
    first = windows.cut(0.5, 1.0)
    assert np.array_equal(first, track[8000:24000])
    windows.forget(1.0)
    assert np.array_equal(windows.cut(1.2, 1.0), track[19200:35200])
    beyond = windows.cut(2.8, 1.0)
    assert len(beyond) == 16000
    assert not beyond[-8000:].any()
    assert np.array_equal(decode_audio(encode_flac(first)) * 2**15, first)
    assert encode_flac(first) == encode_flac(first)
    with pytest.raises(InputError, match="no audio track"):
        list(read_audio(make_video("silent.mp4")))


def test_without_any_ffmpeg_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import imageio_ffmpeg

    def absent() -> str:
        raise RuntimeError("none")

    find_ffmpeg.cache_clear()
    monkeypatch.setattr(ffmpeg.shutil, "which", lambda name: None)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", absent)
    with pytest.raises(EnvironmentFault, match="Install ffmpeg"):
        find_ffmpeg()
    find_ffmpeg.cache_clear()


# What is expected of each real file: grid frames at 25 a second and the picture's size, or the reason of its refusal.
REAL = {
    "clips/asl/again.mkv": (64, 640, 480),  # matroska, full range, starts at 0.033 s
    "clips/asl/book.mkv": (91, 640, 480),
    "clips/asl/eat.mkv": (39, 640, 480),
    "clips/asl/hungry.mkv": (41, 640, 480),
    "clips/asl/milk.mkv": (42, 640, 480),
    "clips/asl/no.mkv": (55, 640, 480),
    "clips/asl/school.mkv": (60, 640, 480),
    "clips/asl/sorry.mkv": (61, 640, 480),
    "clips/asl/thanks.mkv": (42, 640, 480),
    "clips/asl/want.mkv": (39, 640, 480),
    "clips/bottle-detection.mp4": (996, 640, 360),  # 29.83 frames a second
    "clips/cockatoo.mp4": (350, 1280, 720),  # 4:4:4, with sound
    "clips/kinetics_arm_wrestling_demo.mp4": (250, 340, 256),
    "clips/nasa_13013.mp4": (325, 480, 270),  # two video streams: the larger one
    "clips/ntu_S001C001P001R001A001_rgb.avi": (86, 1920, 1080),  # no presentation times
    "clips/one-by-one-person-detection.mp4": (3485, 768, 432),
    "clips/realshort.mp4": (30, 320, 240),
    "clips/scenes/testvideo.mp4": (601, 1280, 720),
    "clips/v_ApplyEyeMakeup_g01_c01.avi": (164, 320, 240),  # 25 a second, no presentation times
    "malformed/videos/decord_corrupted.mp4": "damaged after",
    "malformed/videos/lfs_pointer_martin-squats.mp4": "cannot be decoded",
    "malformed/videos/mp4parse_clusterfuzz-testcase-minimized-mp4-6093954524250112": "cannot be decoded",
    "malformed/videos/mp4parse_invalid_userdata.mp4": "declares 5544 frames but holds none",
}


@pytest.mark.parametrize("name", REAL)
def test_every_real_file_gives_its_frames_or_a_reason(shared_data: Path, name: str) -> None:
    expected = REAL[name]
    path = shared_data / name
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            list(normalised_frames(path))
        return
    info = probe(path)
    count = sum(1 for _ in normalised_frames(path, info=info))
    assert (info.width, info.height) == expected[1:]
    assert count == pytest.approx(expected[0], abs=1)
    assert count == pytest.approx(info.duration_s * 25, abs=1.5)


def test_the_table_names_every_file(shared_data: Path) -> None:
    media = [*(shared_data / "malformed/videos").iterdir(), *(shared_data / "clips").rglob("*")]
    names = {str(p.relative_to(shared_data)) for p in media if p.is_file() and p.suffix not in (".json", ".csv")}
    assert names == set(REAL)


def test_times_of_the_two_stream_file_are_its_golden_ones(shared_data: Path) -> None:
    golden = json.loads((shared_data / "clips/nasa_13013.stream3.all_frames_info.json").read_text())
    path = shared_data / "clips/nasa_13013.mp4"
    rows = golden["frames"] if isinstance(golden, dict) else golden
    times = [float(row.get("pts_time", row.get("pts_seconds", 0))) for row in rows]
    ours = [time for time, _ in scan_video(path)]
    assert ours == pytest.approx([time - times[0] for time in times], abs=1e-4)

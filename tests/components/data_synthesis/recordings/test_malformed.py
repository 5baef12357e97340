"""What is expected of every real and malformed media file at the door, and that no file takes the step along."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

from components.data_synthesis.recordings import contact_sheet
from components.data_synthesis.recordings.probe import UnreadableVideo
from components.data_synthesis.recordings.prober import Prober
from components.shared.runtime.errors import InputError
from components.shared.video.picture import read_picture

NO_PICTURE = "no JPEG or PNG file"
# Frames, width, height, seconds; or the reason of the refusal.
VIDEOS: dict[str, tuple[int, int, int, float] | str] = {
    "clips/asl/again.mkv": (77, 640, 480, 2.567),
    "clips/asl/book.mkv": (109, 640, 480, 3.633),
    "clips/asl/eat.mkv": (47, 640, 480, 1.566),
    "clips/asl/hungry.mkv": (49, 640, 480, 1.633),
    "clips/asl/milk.mkv": (51, 640, 480, 1.7),
    "clips/asl/no.mkv": (66, 640, 480, 2.2),
    "clips/asl/school.mkv": (72, 640, 480, 2.4),
    "clips/asl/sorry.mkv": (73, 640, 480, 2.433),
    "clips/asl/thanks.mkv": (51, 640, 480, 1.7),
    "clips/asl/want.mkv": (47, 640, 480, 1.566),
    "clips/bottle-detection.mp4": (1189, 640, 360, 39.855),
    "clips/cockatoo.mp4": (280, 1280, 720, 14.0),
    "clips/kinetics_arm_wrestling_demo.mp4": (280, 340, 256, 10.0),
    "clips/nasa_13013.mp4": (390, 480, 270, 13.013),  # the larger of two streams
    "clips/ntu_S001C001P001R001A001_rgb.avi": (103, 1920, 1080, 3.433),
    "clips/one-by-one-person-detection.mp4": (1394, 768, 432, 139.4),
    "clips/realshort.mp4": (36, 320, 240, 1.199),
    "clips/scenes/testvideo.mp4": (720, 1280, 720, 24.024),
    "clips/v_ApplyEyeMakeup_g01_c01.avi": (164, 320, 240, 6.56),
    "malformed/videos/decord_corrupted.mp4": "not readable as a video",
    "malformed/videos/lfs_pointer_martin-squats.mp4": "not readable as a video",
    "malformed/videos/mp4parse_clusterfuzz-testcase-minimized-mp4-6093954524250112": "not readable as a video",
    "malformed/videos/mp4parse_invalid_userdata.mp4": "holds no frames that can be decoded",
}
# Height and width; or the reason. OpenCV shows tc_corrupt and truncated_jpeg with parts missing and says nothing.
PICTURES: dict[str, tuple[int, int] | str] = {
    "badbitcount.bmp": NO_PICTURE,
    "badrle.bmp": NO_PICTURE,
    "badwidth.bmp": NO_PICTURE,
    "broken.png": NO_PICTURE,
    "broken_data_stream.png": "unrecognized data stream",
    "crash-4f085cc12ece8cde18758d42608bed6a2a2cfb1c.tif": NO_PICTURE,
    "decompression_bomb.gif": NO_PICTURE,
    "invalid-exif.jpg": (200, 200),
    "mmocr_broken.jpg": "Truncated",
    "photoshop-200dpi-broken.jpg": (200, 200),  # only its resolution is wrong
    "syntax_num_frames_high.png": (64, 128),
    "tc_corrupt.jpg": "broken data stream",
    "tc_frame_exceeds_screen.gif": NO_PICTURE,
    "timeout-9139147ce93e20eb14088fe238e541443ffd64b3.fli": NO_PICTURE,
    "truncated_image.png": "truncated",
    "truncated_jpeg.jpg": "truncated",
    "zero_width.gif": NO_PICTURE,
}


@pytest.fixture
def shared_data() -> Path:
    """The real sample data; tests that need it are skipped where it is not there."""
    path = Path(os.environ.get("PIXELIS_SHARED_DATA", "../shared/data"))
    if not path.is_dir():
        pytest.skip(f"no real sample data at {path} (PIXELIS_SHARED_DATA names it)")
    return path.absolute()


def test_the_tables_name_every_file(shared_data: Path) -> None:
    media = [*(shared_data / "malformed/videos").iterdir(), *(shared_data / "clips").rglob("*")]
    found = {str(p.relative_to(shared_data)) for p in media if p.is_file() and p.suffix not in (".json", ".csv")}
    assert found == set(VIDEOS)
    assert {path.name for path in (shared_data / "malformed/images").iterdir()} == set(PICTURES)


def test_every_video_gives_its_facts_or_a_reason(shared_data: Path) -> None:
    with Prober() as prober:
        child = prober.child.start().pid
        for name, expected in VIDEOS.items():
            if isinstance(expected, str):
                with pytest.raises(UnreadableVideo, match=expected) as caught:
                    prober.video(shared_data / name)
                assert str(shared_data) not in str(caught.value), "reasons must not differ between machines"
            else:
                facts = prober.video(shared_data / name)
                assert (facts.num_frames, facts.width, facts.height) == expected[:3], name
                assert facts.duration_s == pytest.approx(expected[3], abs=0.001)
        assert prober.child.start().pid == child, "no file killed the child"


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_whole_or_refused(shared_data: Path, tmp_path: Path, name: str) -> None:
    """Under its own name and as a frame of an OpenPack folder, whatever its content."""
    expected = PICTURES[name]
    frame = tmp_path / "20220329_142511_030.jpg"
    shutil.copyfile(shared_data / "malformed/images" / name, frame)
    for path in (shared_data / "malformed/images" / name, frame):
        if isinstance(expected, str):
            with pytest.raises(InputError, match=rf"{path.name}: is no whole picture \(.*{expected}"):
                read_picture(path)
        else:
            assert read_picture(path).shape[:2] == expected


@pytest.mark.parametrize("hang", [False, True], ids=["decoder dies", "decoder hangs"])
def test_a_file_that_kills_or_stops_its_decoder_is_only_a_reason(shared_data: Path, hang: bool) -> None:
    good = shared_data / "clips/realshort.mp4"
    with Prober(time_limit_s=0.5 if hang else 30.0) as prober:
        process = prober.child.start()
        os.kill(process.pid, signal.SIGSTOP)
        if not hang:
            threading.Timer(0.2, os.kill, (process.pid, signal.SIGKILL)).start()
        with pytest.raises(
            UnreadableVideo, match=r"more than 0\.5 s" if hang else r"its decoder died \(exit status -9\)"
        ):
            prober.video(good)
        if not hang:
            assert prober.video(good).num_frames == 36, "the next file gets a new child"


def test_a_contact_sheet_that_cannot_be_drawn_fails_nothing(
    small_twin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "recordings"
    shutil.copytree(small_twin[0].recordings, root)
    for video in root.rglob("*.mp4"):
        video.write_bytes(b"no video any more")
    assert contact_sheet.draw_in_child(root, tmp_path / "sheet.png") is None
    assert "no contact sheet" in caplog.text

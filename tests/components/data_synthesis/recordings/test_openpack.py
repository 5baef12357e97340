"""The official tree: sample, footage and annotation that do not meet, aliases, broken files."""

import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.data_synthesis.recordings.openpack import clip_rows
from components.shared.runtime.errors import InputError
from components.shared.work.frames import list_frames
from components.shared.work.manifest import load_manifest
from components.shared.work.openpack_csv import JST, OperationRow, write_operations

SAMPLE = Path(os.environ.get("PIXELIS_SHARED_DATA", "../shared/data")) / "openpack"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"no OpenPack sample under {SAMPLE}")
START = datetime(2022, 3, 29, 14, 25, 10, tzinfo=JST)


def rows(user: str, *spans: tuple[int, float, float]) -> list[OperationRow]:
    at = lambda s: START + timedelta(seconds=s)
    return [OperationRow(f"op:{k}", user, "S0100", 1, o, at(a), at(b)) for k, (o, a, b) in enumerate(spans)]


def frames(root: Path, user: str, times_s: list[float]) -> Path:
    folder = root / user / "kinect/color-masked/frames/S0100"
    for time in times_s:
        moment = START + timedelta(seconds=time)
        path = (
            folder / moment.strftime("%Y/%m/%d/%H/%M") / f"{moment:%Y%m%d_%H%M%S}_{moment.microsecond // 1000:03d}.jpg"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((48, 64, 3), 100, np.uint8))
    return folder


def annotate(root: Path, user: str, *spans: tuple[int, float, float]) -> Path:
    path = root / user / "annotation/openpack-operations/S0100.csv"
    write_operations(path, rows(user, *spans))
    return path


@needs_sample
def test_official_sample_every_row_and_every_frame(run_recordings, tmp_path) -> None:
    outputs, report = run_recordings(tmp_path, {"source": "openpack", "path": str(SAMPLE)})
    (recording,) = load_manifest(outputs.recordings).recordings
    assert (recording.kind, recording.subject, recording.num_frames) == ("frames", "U0209", 8)
    assert report.facts["rows_read"] == 117
    assert report.facts["frames_listed"] == 8
    listed = list_frames(outputs.recordings / recording.video)
    assert [round(time, 3) for _, time in listed] == [0.0, 0.133, 0.266, 0.4, 0.533, 0.667, 0.8, 0.933]
    assert report.facts["rows_outside"] == 117
    assert recording.segments == ()
    assert "117 of 117 annotated operations lie outside the footage" in report.markdown


def test_segments_are_cut_to_the_footage_and_gaps_stay() -> None:
    cut = clip_rows(rows("U0101", (100, -2, 3), (200, 3, 5), (300, 6, 20), (400, 20, 30)), START, 10.0)
    assert [(s.label, s.start_s, s.end_s) for s in cut] == [
        ("Picking", 0.0, 3.0), ("Relocate Item Label", 3.0, 5.0), ("Assemble Box", 6.0, 10.0),
    ]  # fmt: skip


def test_aliases_become_one_person_on_one_side(run_recordings, tmp_path) -> None:
    root = tmp_path / "tree/deep/v1.0.0"
    for user in ("U0105", "U0202", "U0203", "U0107"):
        frames(root, user, [0.0, 0.07, 0.13])
        annotate(root, user, (100, 0, 5))
    outputs, _ = run_recordings(tmp_path / "o", {"source": "openpack", "path": str(tmp_path / "tree")})
    found = {r.recording_id: (r.subject, r.split) for r in load_manifest(outputs.recordings).recordings}
    assert found == {
        "U0105-S0100": ("U0105", "train"),
        "U0107-S0100": ("U0107", "validation"),
        "U0202-S0100": ("U0105", "train"),
        "U0203-S0100": ("U0108", "test"),
    }


def test_a_person_on_two_sides_through_an_alias(run_recordings, tmp_path) -> None:
    frames(tmp_path / "tree", "U0105", [0.0])
    settings = {"source": "openpack", "path": str(tmp_path / "tree"), "test_people": ["U0202"]}
    with pytest.raises(InputError, match=r"U0202 is on two sides .* \(U0105 and U0202 are one person\)"):
        run_recordings(tmp_path / "o", settings)


def test_one_session_in_two_folders_is_refused(run_recordings, tmp_path) -> None:
    """Both would get one id and one place in the artifact."""
    for part in ("first", "second"):
        frames(tmp_path / "tree" / part, "U0101", [0.0, 0.07, 0.13])
        annotate(tmp_path / "tree" / part, "U0101", (100, 0, 1))
    with pytest.raises(InputError, match="lies in first/U0101 and in second/U0101"):
        run_recordings(tmp_path, {"source": "openpack", "path": str(tmp_path / "tree")})


def test_footage_and_annotation_that_do_not_meet_are_recorded(run_recordings, tmp_path) -> None:
    root = tmp_path / "tree"
    frames(root, "U0101", [0.0, 0.1])
    annotate(root, "U0101", (100, 0, 5))
    frames(root, "U0102", [0.0, 0.1])
    annotate(root, "U0103", (100, 0, 5))
    outputs, _ = run_recordings(tmp_path / "o", {"source": "openpack", "path": str(root), "max_bad_share": 0.9})
    manifest = load_manifest(outputs.recordings)
    assert [r.recording_id for r in manifest.recordings] == ["U0101-S0100"]
    reasons = {item.path: item.reason for item in manifest.skipped}
    assert reasons["U0102/kinect/color-masked/frames/S0100"] == "footage without annotation"
    assert reasons["U0103/annotation/openpack-operations/S0100.csv"] == "annotation without video or frames"


def test_a_broken_row_stops_the_step_with_file_and_row(run_recordings, tmp_path) -> None:
    frames(tmp_path / "tree", "U0101", [0.0])
    path = annotate(tmp_path / "tree", "U0101", (100, 0, 5), (200, 5, 6))
    path.write_text(path.read_text().replace(",200,", ",250,"))
    with pytest.raises(InputError, match=r"S0100\.csv, row 3: operation id 250 is unknown"):
        run_recordings(tmp_path / "o", {"source": "openpack", "path": str(tmp_path / "tree")})


def test_session_video_needs_a_start(run_recordings, small_twin, tmp_path) -> None:
    import av

    root = tmp_path / "tree"
    source = small_twin[0].recordings / "U0101/kinect/color/videos/S0100.mp4"
    target = root / "U0101/kinect/color/videos/S0100.mp4"
    target.parent.mkdir(parents=True)
    with av.open(str(source)) as given, av.open(str(target), "w") as stripped:
        stream = stripped.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                stripped.mux(packet)
    annotate(root, "U0101", (100, 0, 2), (200, 2, 5))
    with pytest.raises(InputError, match="it has no creation_time"):
        run_recordings(tmp_path / "1", {"source": "openpack", "path": str(root)})
    outputs, _ = run_recordings(tmp_path / "2", {"source": "openpack", "path": str(root), "video_start": "annotation"})
    (recording,) = load_manifest(outputs.recordings).recordings
    assert [(s.label, s.start_s, s.end_s) for s in recording.segments] == [
        ("Picking", 0.0, 2.0), ("Relocate Item Label", 2.0, 5.0),
    ]  # fmt: skip


def test_a_broken_session_video_is_a_recorded_skip(run_recordings, small_twin, tmp_path) -> None:
    root = tmp_path / "tree"
    shutil.copytree(small_twin[0].recordings, root)
    video = root / "U0102/kinect/color/videos/S0100.mp4"
    video.write_bytes(video.read_bytes()[:3000])
    outputs, report = run_recordings(tmp_path / "o", {"source": "openpack", "path": str(root)})
    assert report.metrics["num_recordings"] == 5
    (item,) = load_manifest(outputs.recordings).skipped
    assert item.path == "U0102/kinect/color/videos/S0100.mp4"


def test_missing_and_empty_trees(run_recordings, tmp_path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        run_recordings(tmp_path / "1", {"source": "openpack", "path": str(tmp_path / "nowhere")})
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no OpenPack people"):
        run_recordings(tmp_path / "2", {"source": "openpack", "path": str(tmp_path / "empty")})

"""The twin's artifact: official tree, determinism, sound, truth kept apart."""

import json
from pathlib import Path

import av
import numpy as np
import pytest

from components.data_synthesis.recordings.twin.truth import object_mask
from components.shared.runtime.artifacts import sha256_file, tree_digest
from components.shared.work.manifest import load_manifest
from components.shared.work.openpack_csv import read_operations, read_seconds
from components.shared.work.operations import LABELS
from components.shared.work.series import second_rows


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_same_seed_same_bytes_whatever_the_number_of_workers(
    small_twin, run_recordings, small_settings, tmp_path
) -> None:
    outputs, _ = small_twin
    small_settings["workers"] = 1
    again, _ = run_recordings(tmp_path, small_settings)
    assert tree_digest(again.recordings) == tree_digest(outputs.recordings)
    assert tree_digest(again.truth) == tree_digest(outputs.truth)


def test_another_seed_gives_other_pictures(small_twin, run_recordings, small_settings, tmp_path) -> None:
    small_settings["seed"] = 4
    again, _ = run_recordings(tmp_path, small_settings)
    before = {r.recording_id: r.sha256 for r in load_manifest(small_twin[0].recordings).recordings}
    after = {r.recording_id: r.sha256 for r in load_manifest(again.recordings).recordings}
    assert before.keys() == after.keys()
    assert not set(before.values()) & set(after.values())


def test_official_people_come_first_and_sides_are_disjoint(small_twin) -> None:
    manifest = load_manifest(small_twin[0].recordings)
    assert [r.subject for r in manifest.recordings] == ["U0101", "U0102", "U0103", "U0104", "U0107", "U0108"]
    assert [r.split for r in manifest.recordings] == ["train"] * 4 + ["validation", "test"]
    assert manifest.labels == LABELS
    assert manifest.split_by == "person"
    assert manifest.provenance == "synthetic"


def test_video_is_what_the_manifest_says(small_twin) -> None:
    root = small_twin[0].recordings
    for recording in load_manifest(root).recordings:
        path = root / recording.video
        assert sha256_file(path) == recording.sha256
        with av.open(str(path)) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
            assert (video.width, video.height, float(video.average_rate)) == (448, 336, 25.0)
            times = [frame.time for frame in container.decode(video)]
        assert len(times) == recording.num_frames == round(recording.duration_s * 25)
        assert np.allclose(np.diff(times), 0.04, atol=1e-4)


def test_csvs_agree_with_the_manifest_and_each_other(small_twin) -> None:
    root = small_twin[0].recordings
    for recording in load_manifest(root).recordings:
        annotation = root / recording.subject / "annotation"
        rows = read_operations(annotation / "openpack-operations" / f"{recording.session}.csv")
        assert read_seconds(annotation / "openpack-operations-1hz" / f"{recording.session}.csv") == second_rows(rows)
        start = rows[0].start
        for row, segment in zip(rows, recording.segments, strict=True):
            assert (row.start - start).total_seconds() == pytest.approx(segment.start_s, abs=1e-3)
            assert (row.end - start).total_seconds() == pytest.approx(segment.end_s, abs=1e-3)
            assert row.box == segment.box
        assert recording.segments[0].start_s == 0
        assert recording.segments[-1].end_s == pytest.approx(recording.duration_s)
        for a, b in zip(recording.segments, recording.segments[1:], strict=False):
            assert a.end_s == b.start_s
            assert a.label != b.label


def test_the_twins_tree_is_read_back_by_the_openpack_reader(small_twin, run_recordings, tmp_path) -> None:
    root = small_twin[0].recordings
    outputs, report = run_recordings(tmp_path, {"source": "openpack", "path": str(root), "max_bad_share": 0.0})
    ours, theirs = load_manifest(root), load_manifest(outputs.recordings)
    assert report.provenance == "real"  # the reader cannot know; the tree itself says nothing
    for a, b in zip(ours.recordings, theirs.recordings, strict=True):
        assert (a.recording_id, a.subject, a.split, a.num_frames, a.sha256) == (
            b.recording_id, b.subject, b.split, b.num_frames, b.sha256,
        )  # fmt: skip
        assert [s.label for s in a.segments] == [s.label for s in b.segments]
        assert np.allclose([s.start_s for s in a.segments], [s.start_s for s in b.segments], atol=1e-3)


def test_truth_is_kept_out_of_the_recordings(small_twin) -> None:
    outputs, _ = small_twin
    assert len(list(outputs.truth.glob("*.json"))) == 6
    for path in outputs.recordings.rglob("*"):
        if path.is_file() and path.suffix in {".json", ".csv"}:
            text = path.read_text()
            assert not any(word in text for word in ("checker", "diagonal", "tag"))


def test_truth_boxes_follow_the_pictures(small_twin) -> None:
    outputs, _ = small_twin
    for recording in load_manifest(outputs.recordings).recordings:
        truth = json.loads((outputs.truth / f"{recording.recording_id}.json").read_text())
        assert truth["num_frames"] == recording.num_frames
        for series in truth["objects"].values():
            assert len(series["boxes"]) == recording.num_frames
            for box in filter(None, series["boxes"]):
                assert 0 <= box[0] < box[2] <= truth["width"]
                assert 0 <= box[1] < box[3] <= truth["height"]
        boxes = truth["objects"]["right_hand"]["boxes"]
        assert all(boxes)
        assert len({tuple(box) for box in boxes}) > 10
        mask = object_mask(truth, "right_hand", 5)
        assert mask.shape == (336, 448)
        assert 0.6 < mask.sum() / ((boxes[5][2] - boxes[5][0]) * (boxes[5][3] - boxes[5][1])) <= 1


def test_orders_cover_the_recording_and_match_the_box_column(small_twin) -> None:
    outputs, _ = small_twin
    for recording in load_manifest(outputs.recordings).recordings:
        orders = json.loads((outputs.truth / f"{recording.recording_id}.json").read_text())["orders"]
        assert [o["box"] for o in orders] == sorted({s.box for s in recording.segments})
        assert orders[0]["start_s"] == 0
        assert orders[-1]["end_s"] == pytest.approx(recording.duration_s)


def test_sound_is_not_silence_and_depends_on_the_work(small_twin) -> None:
    root = small_twin[0].recordings
    loudness = []
    for recording in load_manifest(root).recordings:
        with av.open(str(root / recording.video)) as container:
            samples = np.concatenate([f.to_ndarray().ravel() for f in container.decode(audio=0)])
        assert len(samples) / 16000 == pytest.approx(recording.duration_s, abs=0.2)
        rms = np.sqrt((samples[: len(samples) // 800 * 800].reshape(-1, 800) ** 2).mean(axis=1))
        loudness.append(rms.max() / np.median(rms))
    assert min(loudness) > 1.5


def test_report_has_figures_and_a_readable_contact_sheet(small_twin) -> None:
    outputs, report = small_twin
    assert report.metrics["num_recordings"] == 6
    assert report.metrics["num_frames"] == 4 * 150 + 100 + 150
    (sheet,) = report.pictures.values()
    assert sheet.parent == outputs.recordings
    assert sheet.read_bytes()[:4] == b"\x89PNG"
    assert "split by **person**" in report.markdown


@pytest.mark.parametrize(
    ("shift", "check"),
    [
        ({"light": 1.6}, "brighter"),
        ({"camera": 1.0}, "differs"),
        ({"occlusion": 0.8}, "differs"),
        ({"speed": 2.0}, "more operations"),
    ],
)
def test_shifts_change_test_people_only(small_twin, run_recordings, small_settings, tmp_path, shift, check) -> None:
    small_settings["twin"] |= {"shift": shift, "num_train_people": 1}
    shifted, _ = run_recordings(tmp_path, small_settings)
    before = {r.subject: r for r in load_manifest(small_twin[0].recordings).recordings}
    after = {r.subject: r for r in load_manifest(shifted.recordings).recordings}
    assert after["U0101"].sha256 == before["U0101"].sha256
    assert after["U0107"].sha256 == before["U0107"].sha256
    old = frames_of(small_twin[0].recordings / before["U0108"].video)
    new = frames_of(shifted.recordings / after["U0108"].video)
    if check == "brighter":
        assert np.mean(new[0]) > np.mean(old[0]) * 1.2
    elif check == "differs":
        assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(old[::10], new[::10], strict=True)) > 3
    else:
        assert len(after["U0108"].segments) > len(before["U0108"].segments)


def test_the_truth_of_labels_moves_with_the_camera(run_recordings, small_settings, tmp_path) -> None:
    """Labels are the lightest things on the shelf: their boxes must be lighter than what lies around them."""
    small_settings["twin"] |= {"shift": {"camera": 1.0}, "num_train_people": 1, "audio": False}
    outputs, _ = run_recordings(tmp_path, small_settings)
    recording = next(r for r in load_manifest(outputs.recordings).recordings if r.split == "test")
    truth = json.loads((outputs.truth / f"{recording.recording_id}.json").read_text())
    frame = np.mean(frames_of(outputs.recordings / recording.video)[::10], axis=0).mean(axis=2)
    boxes = [label["box"] for label in truth["labels"] if label["box"]]
    assert len(boxes) >= 3
    for x0, y0, x1, y1 in boxes:
        around = frame[max(y0 - 12, 0) : y1 + 12, max(x0 - 12, 0) : x1 + 12]
        assert frame[y0:y1, x0:x1].mean() > around.mean() + 10


def test_regular_work_never_skips(run_recordings, small_settings, tmp_path) -> None:
    small_settings["twin"] |= {"regularity": 1.0, "null_probability": 0.0, "audio": False, "num_train_people": 2}
    outputs, _ = run_recordings(tmp_path, small_settings)
    manifest = load_manifest(outputs.recordings)
    usual = {
        ("Picking", "Relocate Item Label"), ("Relocate Item Label", "Assemble Box"), ("Assemble Box", "Insert Items"),
        ("Insert Items", "Close Box"), ("Close Box", "Attach Box Label"), ("Attach Box Label", "Scan Label"),
        ("Scan Label", "Fill out Order"), ("Fill out Order", "Attach Shipping Label"),
        ("Attach Shipping Label", "Put on Back Table"), ("Put on Back Table", "Picking"),
    }  # fmt: skip
    seen = {(a.label, b.label) for r in manifest.recordings for a, b in zip(r.segments, r.segments[1:], strict=False)}
    assert seen <= usual
    assert not any(r.has_audio for r in manifest.recordings)


def test_a_failing_renderer_is_one_clear_error(run_recordings, small_settings, tmp_path, monkeypatch) -> None:
    from components.data_synthesis.recordings.twin import source
    from components.shared.runtime.errors import StepError

    monkeypatch.setattr(source, "_WORKER", "components.data_synthesis.recordings.twin.no_such_module")
    with pytest.raises(StepError, match=r"rendering stopped after 0 of 6 .*no_such_module"):
        run_recordings(tmp_path, small_settings)

"""Segments folders: urfd as it is, the split, and every bad input."""

import json
import os
import shutil
from pathlib import Path

import pytest

from components.data_synthesis.recordings.split import Unit, split_units
from components.shared.runtime.errors import ArtifactError, InputError
from components.shared.runtime.stores import fetch_folder, put_folder
from components.shared.work.manifest import load_manifest

DATA = Path(os.environ.get("PIXELIS_SHARED_DATA", "../shared/data"))
URFD = DATA / "urfd"
needs_urfd = pytest.mark.skipif(not URFD.is_dir(), reason=f"no urfd videos under {URFD}")
HEADER = "video,label,start_s,end_s"


@pytest.fixture
def folder(tmp_path: Path, small_twin) -> Path:
    """A segments folder with four good videos a.mp4 … d.mp4 of 4 to 6 s."""
    root = tmp_path / "source"
    root.mkdir()
    recordings = load_manifest(small_twin[0].recordings).recordings
    for name, recording in zip("abcd", recordings[:4], strict=True):
        shutil.copy(small_twin[0].recordings / recording.video, root / f"{name}.mp4")
    return root


def annotate(root: Path, *rows: str, header: str = HEADER) -> Path:
    (root / "segments.csv").write_text("\n".join([header, *rows]) + "\n")
    return root


GOOD = [f"{name}.mp4,{label},{start},{start + 2}" for name in "abcd" for label, start in (("on", 0), ("off", 2))]


@needs_urfd
def test_urfd_is_read_as_it_is(run_recordings, tmp_path) -> None:
    outputs, report = run_recordings(tmp_path, {"source": "segments", "path": str(URFD)})
    manifest = load_manifest(outputs.recordings)
    assert len(manifest.recordings) == 26
    assert sum(len(r.segments) for r in manifest.recordings) == 75
    assert set(manifest.labels) == {"not_lying", "transition", "lying"}
    assert (manifest.split_by, manifest.provenance, manifest.null_label) == ("video", "real", None)
    for side in ("train", "validation", "test"):
        own = [r for r in manifest.recordings if r.split == side]
        assert {s.label for r in own for s in r.segments} == set(manifest.labels)
    assert not list(outputs.truth.iterdir())
    assert "split by **video**" in report.markdown
    assert report.facts["rows_read"] == 75
    assert all((outputs.recordings / r.video).is_file() for r in manifest.recordings)
    labelled = sum(s.end_s - s.start_s for r in manifest.recordings for s in r.segments)
    assert labelled == pytest.approx(153, abs=1.5)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_folder_in_an_object_store_gives_what_the_folder_gives(
    run_recordings, folder, tmp_path, store, google, scheme
) -> None:
    annotate(folder, *GOOD)
    put_folder(folder, f"{scheme}://mlpipeline/data/segments")
    near, _ = run_recordings(tmp_path / "1", {"source": "segments", "path": str(folder)})
    far, _ = run_recordings(
        tmp_path / "2", {"source": "segments", "path": f"{scheme}://mlpipeline/data/segments", "copy_videos": False}
    )
    assert load_manifest(far.recordings) == load_manifest(near.recordings)
    assert all((far.recordings / r.video).is_file() for r in load_manifest(far.recordings).recordings)
    assert {path.name for path in far.recordings.parent.iterdir()} == {
        path.name for path in near.recordings.parent.iterdir()
    }
    with pytest.raises(ArtifactError, match=f"nothing is stored under {scheme}://mlpipeline/data/none"):
        run_recordings(tmp_path / "3", {"source": "segments", "path": f"{scheme}://mlpipeline/data/none"})


def test_what_was_fetched_takes_its_size_on_disk_once(run_recordings, folder, tmp_path, store, monkeypatch) -> None:
    """No file of the artifact was written a second time: each is the very file that was fetched."""
    annotate(folder, *GOOD)
    put_folder(folder, "s3://mlpipeline/data/once")
    fetched = {}

    def watched(uri: str, into: Path) -> tuple[int, int]:
        done = fetch_folder(uri, into)
        fetched.update({path.stat().st_ino: path.name for path in into.rglob("*.mp4")})
        return done

    monkeypatch.setattr("components.data_synthesis.recordings.read.fetch_folder", watched)
    outputs, _ = run_recordings(tmp_path, {"source": "segments", "path": "s3://mlpipeline/data/once"})
    assert {path.stat().st_ino: path.name for path in outputs.recordings.rglob("*.mp4")} == fetched


def test_the_split_does_not_depend_on_row_order(run_recordings, folder, tmp_path) -> None:
    first, _ = run_recordings(tmp_path / "1", {"source": "segments", "path": str(annotate(folder, *GOOD))})
    second, _ = run_recordings(tmp_path / "2", {"source": "segments", "path": str(annotate(folder, *GOOD[::-1]))})
    sides = [{r.recording_id: r.split for r in load_manifest(o.recordings).recordings} for o in (first, second)]
    assert sides[0] == sides[1]
    assert set(sides[0].values()) == {"train", "validation", "test"}


def test_subjects_and_splits_of_the_csv_are_kept(run_recordings, folder, tmp_path) -> None:
    rows = [
        f"{row},{subject},{side}"
        for row, subject, side in zip(
            GOOD,
            ["ann"] * 4 + ["bob"] * 2 + ["cy"] * 2,
            ["train"] * 4 + ["validation"] * 2 + ["test"] * 2,
            strict=True,
        )
    ]
    annotate(folder, *rows, header=HEADER + ",subject,split")
    outputs, _ = run_recordings(tmp_path / "o", {"source": "segments", "path": str(folder)})
    manifest = load_manifest(outputs.recordings)
    assert manifest.split_by == "person"
    assert [(r.subject, r.split) for r in manifest.recordings] == [
        ("ann", "train"), ("ann", "train"), ("bob", "validation"), ("cy", "test"),
    ]  # fmt: skip
    assert manifest.transitions == {"on": {"off": 2}}


def test_without_copies_the_manifest_names_the_source(run_recordings, folder, tmp_path) -> None:
    annotate(folder, *GOOD)
    outputs, _ = run_recordings(tmp_path / "o", {"source": "segments", "path": str(folder), "copy_videos": False})
    manifest = load_manifest(outputs.recordings)
    assert not (outputs.recordings / "videos").exists()
    assert manifest.resolve(manifest.recordings[0], outputs.recordings) == (folder / "a.mp4").resolve()


BAD_ROWS = {
    "end before start": ("a.mp4,on,5,4", "end_s 4 is not after start_s 5"),
    "negative": ("a.mp4,on,-1,4", "start_s -1 is negative"),
    "not a number": ("a.mp4,on,zero,4", "start_s 'zero' is not a number"),
    "nan": ("a.mp4,on,nan,4", "start_s 'nan' is not a number"),
    "endless": ("a.mp4,on,0,inf", "end_s 'inf' is not a number"),
    "no label": ("a.mp4,,0,4", "label is empty"),
    "no video": (",on,0,4", "video is empty"),
    "overlap": ("a.mp4,on,3,4.5", "on from 3 s in a.mp4 overlaps row 3"),
    "duplicate": ("a.mp4,off,2,4", "is a duplicate of row 3"),
    "leads out": ("../a.mp4,on,0,1", "leads out of the folder"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_wrong_row_is_named(run_recordings, folder, tmp_path, case) -> None:
    row, message = BAD_ROWS[case]
    annotate(folder, *GOOD[:2], row)
    with pytest.raises(InputError) as caught:
        run_recordings(tmp_path / "o", {"source": "segments", "path": str(folder)})
    assert message in str(caught.value)
    assert f"{folder / 'segments.csv'}, row 4" in str(caught.value)


def test_a_person_on_two_sides_is_refused(run_recordings, folder, tmp_path) -> None:
    rows = [f"a.mp4,on,0,1,ann,train", "b.mp4,on,0,1,ann,test", "c.mp4,on,0,1,bob,validation"]  # noqa: F541
    annotate(folder, *rows, header=HEADER + ",subject,split")
    with pytest.raises(InputError, match="row 3: ann is on two sides of the split: train and test"):
        run_recordings(tmp_path / "o", {"source": "segments", "path": str(folder)})


def test_split_column_must_be_whole_known_and_consistent(run_recordings, folder, tmp_path) -> None:
    cases = {
        ("a.mp4,on,0,1,train", "b.mp4,on,0,1,", "c.mp4,on,0,1,test"): "row 3: b.mp4 has no split",
        ("a.mp4,on,0,1,dev",): "row 2: split 'dev' is unknown",
        ("a.mp4,on,0,1,train", "a.mp4,on,1,2,test"): "row 3: split 'test' of a.mp4 differs",
    }
    for number, (rows, message) in enumerate(cases.items()):
        annotate(folder, *rows, header=HEADER + ",split")
        with pytest.raises(InputError, match=message):
            run_recordings(tmp_path / str(number), {"source": "segments", "path": str(folder)})


def test_missing_and_empty_folders(run_recordings, tmp_path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        run_recordings(tmp_path / "1", {"source": "segments", "path": str(tmp_path / "nowhere")})
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no segments\.csv"):
        run_recordings(tmp_path / "2", {"source": "segments", "path": str(tmp_path / "empty")})
    annotate(tmp_path / "empty")
    with pytest.raises(InputError, match="has no rows"):
        run_recordings(tmp_path / "3", {"source": "segments", "path": str(tmp_path / "empty")})
    annotate(tmp_path / "empty", header="video,label,start_s")
    with pytest.raises(InputError, match="row 1: column end_s is missing"):
        run_recordings(tmp_path / "4", {"source": "segments", "path": str(tmp_path / "empty")})


def test_broken_videos_are_recorded_skips(run_recordings, folder, tmp_path) -> None:
    (folder / "text.mp4").write_text("version https://git-lfs.github.com/spec/v1\n")
    (folder / "zero.mp4").write_bytes(b"")
    (folder / "half.mp4").write_bytes((folder / "a.mp4").read_bytes()[:60000])
    (folder / "extra.mp4").write_bytes((folder / "a.mp4").read_bytes())
    rows = [*GOOD, "text.mp4,on,0,1", "zero.mp4,on,0,1", "half.mp4,on,0,1", "gone.mp4,on,0,1", "a.mp4,on,99,100"]
    annotate(folder, *rows)
    settings = {"source": "segments", "path": str(folder), "max_bad_share": 0.5}
    outputs, report = run_recordings(tmp_path / "o", settings)
    skipped = {item.path: item for item in load_manifest(outputs.recordings).skipped}
    assert "not readable as a video" in skipped["text.mp4"].reason
    assert skipped["zero.mp4"].reason == "the file is empty"
    assert "truncated" in skipped["half.mp4"].reason or "not readable" in skipped["half.mp4"].reason
    assert skipped["gone.mp4"].reason == "annotated, but the video is missing"
    assert skipped["gone.mp4"].row == 13
    assert skipped["extra.mp4"].reason == "the video has no row in segments.csv"
    assert "behind the video's end" in skipped["a.mp4"].reason
    assert report.metrics["num_bad"] == 4
    assert all(path in report.markdown for path in skipped)


def test_too_many_bad_recordings_fail_the_step(run_recordings, folder, tmp_path) -> None:
    (folder / "b.mp4").write_bytes(b"")
    annotate(folder, *GOOD)
    with pytest.raises(InputError, match=r"1 of 4 recordings cannot be used, 25% .*b\.mp4: the file is empty"):
        run_recordings(tmp_path / "o", {"source": "segments", "path": str(folder), "max_bad_share": 0.2})


def test_nothing_usable_is_one_clear_error(run_recordings, tmp_path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    annotate(folder, "gone.mp4,on,0,1", "lost.mp4,on,0,1", "away.mp4,on,0,1")
    with pytest.raises(InputError, match=r"no usable recording \(gone\.mp4: annotated, but the video is missing"):
        run_recordings(tmp_path / "o", {"source": "segments", "path": str(folder), "max_bad_share": 1.0})


def test_split_keeps_every_label_on_every_side_where_it_can() -> None:
    units = [Unit(f"v{k}", {"common"} | ({"rare"} if k % 4 == 0 else set()), [f"v{k}"]) for k in range(12)]
    sides = split_units(units, validation_share=0.15, test_share=0.3)
    for side in ("train", "validation", "test"):
        own = [unit for unit in units if sides[unit.name] == side]
        assert {"common", "rare"} == {label for unit in own for label in unit.labels}
    assert json.dumps(sides, sort_keys=True) == json.dumps(
        split_units(units[::-1], validation_share=0.15, test_share=0.3), sort_keys=True
    )


@pytest.mark.parametrize("count", [3, 4, 7])
def test_every_side_is_filled_also_with_few_units(count: int) -> None:
    units = [Unit(f"v{k}", {"x"}, [f"v{k}"]) for k in range(count)]
    sides = split_units(units, validation_share=0.45, test_share=0.7)
    assert set(sides.values()) == {"train", "validation", "test"}


def test_two_units_cannot_be_split() -> None:
    with pytest.raises(InputError, match="2 usable video"):
        split_units([Unit("a", {"x"}, []), Unit("b", {"x"}, [])], validation_share=0.1, test_share=0.3)


@pytest.mark.parametrize("other", ["a.mov", "a_b.mp4"])
def test_videos_whose_names_differ_little_stay_two_recordings(
    run_recordings, folder: Path, tmp_path: Path, other: str
) -> None:
    """The suffix, or what an id may not hold, is the only difference: none is written over the other."""
    renamed = {"a.mp4": "a.mp4" if other == "a.mov" else "a b.mp4", "b.mp4": other}
    for old, new in renamed.items():
        (folder / old).rename(folder / new)
    rows = [row.replace(name, renamed.get(name, name)) for row in GOOD for name in [row.partition(",")[0]]]
    outputs, _ = run_recordings(tmp_path, {"source": "segments", "path": str(annotate(folder, *rows))})
    recordings = load_manifest(outputs.recordings).recordings
    assert len({r.recording_id for r in recordings}) == len({r.video for r in recordings}) == 4
    contents = {(outputs.recordings / r.video).read_bytes() for r in recordings}
    assert contents == {path.read_bytes() for path in folder.iterdir() if path.suffix in (".mp4", ".mov")}

"""Artifacts: whole or not at all, and damage is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.shared.runtime.artifacts import RECORD, atomic_write, staged_directory, tree_digest
from components.shared.runtime.errors import ArtifactError
from components.shared.runtime.records import ArtifactRecord, StepRecord, read_artifact_record, write_artifact_record


def test_a_staged_directory_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    with staged_directory(target) as staged:
        (staged / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_an_artifact_can_be_read_by_others_and_keeps_its_links(tmp_path: Path) -> None:
    """safetensors writes through a private temporary file; a service in a container reads as another user."""
    outside = tmp_path / "outside"
    outside.write_text("")
    outside.chmod(0o600)
    with staged_directory(tmp_path / "artifact") as staged:
        (staged / "inner").mkdir(mode=0o700)
        for name, mode in (("weights", 0o600), ("script", 0o700)):
            (staged / "inner" / name).write_text("1")
            (staged / "inner" / name).chmod(mode)
        (staged / "link").symlink_to(outside)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "artifact").rglob("*")}
    assert modes == {"inner": 0o755, "weights": 0o644, "script": 0o744, "link": 0o600}


def test_a_failure_leaves_the_old_artifact_and_no_rest(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    target.mkdir()
    (target / "old").write_text("1")
    with pytest.raises(RuntimeError), staged_directory(target) as staged:
        (staged / "new").write_text("2")
        raise RuntimeError("killed")
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]
    assert (target / "old").exists()


def test_leftovers_of_a_killed_attempt_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".artifact.staged-dead").mkdir()
    with staged_directory(tmp_path / "artifact"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_atomic_write_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    atomic_write(path, "one")
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_tree_digest_depends_on_names_and_bytes_only(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("same")
    assert tree_digest(tmp_path / "a") == tree_digest(tmp_path / "b")
    (tmp_path / "b" / "x").rename(tmp_path / "b" / "y")
    assert tree_digest(tmp_path / "a") != tree_digest(tmp_path / "b")
    before = tree_digest(tmp_path / "a")
    (tmp_path / "a" / RECORD).write_text("{}")
    assert tree_digest(tmp_path / "a") == before, "the record that holds the digest is not part of it"


def make_artifact(root: Path) -> Path:
    root.mkdir()
    (root / "data").write_text("12345")
    record = StepRecord(step="clips", run_id="r", status="SUCCEEDED")
    record.outputs["clips"] = ArtifactRecord(str(root), tree_digest(root), "real", "r", "clips")
    write_artifact_record(root, record, "clips")
    return root


def test_an_artifact_tells_who_made_it(tmp_path: Path) -> None:
    item, record = read_artifact_record(make_artifact(tmp_path / "a"))
    assert (item.step, item.provenance, record.status) == ("clips", "real", "SUCCEEDED")


def test_damage_is_refused_by_file(tmp_path: Path) -> None:
    root = make_artifact(tmp_path / "a")
    (root / "data").write_text("123")
    with pytest.raises(ArtifactError, match="data is 3 bytes instead of 5"):
        read_artifact_record(root)
    (root / "data").unlink()
    with pytest.raises(ArtifactError, match="data is missing"):
        read_artifact_record(root)


def test_a_folder_without_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"artifact\.json is missing"):
        read_artifact_record(tmp_path)

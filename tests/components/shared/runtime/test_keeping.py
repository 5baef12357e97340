"""Checkpoints kept in an object store while a step works: whole, the newest, and never at the work's expense."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from components.shared.runtime import keeping, stores
from components.shared.runtime.errors import ArtifactError
from components.shared.runtime.stores import put_folder

HERE = Path(__file__).parent
EXCHANGE = "s3://mlpipeline/exchange"


def test_what_is_kept_is_always_a_whole_checkpoint(store: Any, tmp_path: Path) -> None:
    uri, work = f"{EXCHANGE}/sft-kept/run-1/work", tmp_path / "work"
    (work / "step-1").mkdir(parents=True)
    (work / "step-1" / "t").write_text("one")
    (work / ".step-2.staged-x").mkdir()
    (work / ".step-2.staged-x" / "t").write_text("half")
    stored = keeping.mirror(work, uri, {})
    assert set(stored) == {"step-1/t"}
    (work / ".step-2.staged-x").rename(work / "step-2")
    (work / "step-1" / "t").unlink()
    keeping.mirror(work, uri, stored)
    (tmp_path / "other").mkdir()
    with keeping.kept(tmp_path / "other", uri):
        found = {path.relative_to(tmp_path / "other").as_posix() for path in (tmp_path / "other").rglob("*")}
        assert found == {"step-2", "step-2/t"}
        (tmp_path / "other" / "last").write_text("at the end")
    stores.fetch_folder(uri, tmp_path / "third")
    assert (tmp_path / "third" / "last").read_text() == "at the end"


def test_another_runs_checkpoints_are_taken_newest_first_and_only_where_there_are_none_of_its_own(
    store: Any, tmp_path: Path
) -> None:
    def leave(run: str, text: str) -> None:
        time.sleep(1.1)  # the store tells seconds apart
        (tmp_path / "x").write_text(text)
        put_folder(tmp_path, f"{EXCHANGE}/sft-many/{run}/work")
        (tmp_path / "x").unlink()

    def found(run: str) -> str:
        work = Path(tempfile.mkdtemp(dir=tmp_path.parent))
        with keeping.kept(work, f"{EXCHANGE}/sft-many/{run}/work"):
            return (work / "x").read_text() if (work / "x").exists() else ""

    put_folder(HERE / "golden", f"{EXCHANGE}/sft-many/run-0/outputs/adapter")
    assert found("run-1") == "", "another run's results are no checkpoints"
    leave("run-3", "older")
    leave("run-2", "newer")
    assert found("run-1") == "newer"
    leave("run-3", "newest")
    assert found("run-1") == "newer", "its own by now"
    assert found("run-4") == "newest"


def test_what_changes_while_it_is_fetched_is_fetched_again_or_not_used(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, real, times = f"{EXCHANGE}/sft-moving/run-1/work", keeping.fetch_folder, []
    (tmp_path / "source").mkdir()

    def leave(number: int) -> None:
        (tmp_path / "source" / "step").write_text(str(number))
        put_folder(tmp_path / "source", uri)

    def fetch(address: str, into: Path) -> tuple[int, int]:
        done = real(address, into)
        times.append(1)
        if len(times) in (1, 3, 4, 5):
            leave(len(times))
        return done

    monkeypatch.setattr(keeping, "fetch_folder", fetch)
    leave(0)
    (tmp_path / "one").mkdir()
    keeping.bring(uri, tmp_path / "one")
    assert ((tmp_path / "one" / "step").read_text(), len(times)) == ("1", 2)
    (tmp_path / "two").mkdir()
    with pytest.raises(ArtifactError, match="changed each of 3 times"):
        keeping.bring(uri, tmp_path / "two")
    assert not list((tmp_path / "two").iterdir())


def test_a_store_that_is_silent_costs_only_the_copy(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    (tmp_path / "work").mkdir()
    with keeping.kept(tmp_path / "work", f"{EXCHANGE}/sft-silent/run-1/work"):
        (tmp_path / "work" / "x").write_text("x")
    assert "could not be brought" in caplog.text
    assert "could not be stored" in caplog.text

"""The eleven failures of an earlier implementation of this design (PERFORMANCE.md), each by name."""

import ast
import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from simulated_disk import FastDisk, FaultyDisk, RecordingDisk, flip

import components.ttrl.buffer as package
from components.ttrl.buffer import BufferConfig, ExperienceBuffer, ExperienceBufferError, InvalidExperienceError

CONFIG = BufferConfig(dimension=4, segment_bytes=1 << 20, preallocate=False, background=False, min_free_bytes=0)


def abandoned(buffer):
    """As after kill -9: nothing is closed, only the lock is gone."""
    buffer._lock.release()


def test_01_after_a_kill_no_record_is_missing_from_the_index(tmp_path, make):
    buffer = ExperienceBuffer.open(tmp_path / "b", CONFIG)
    stored = [make(i) for i in range(40)]
    for e in stored:
        buffer.append(e)
    abandoned(buffer)
    with ExperienceBuffer.open(tmp_path / "b", CONFIG) as again:
        assert all(again.search_knn(e.visual, 1)[0].id == e.id for e in stored)


def test_02_a_torn_tail_does_not_make_the_next_acknowledged_records_unreadable(tmp_path, make):
    buffer = ExperienceBuffer.open(tmp_path / "b", CONFIG)
    first = make(1)
    buffer.append(first)
    abandoned(buffer)
    path = tmp_path / "b" / "log" / "0000000001.log"
    data = path.read_bytes()
    path.write_bytes(data + data[-150:-20])  # half a frame
    second = make(2)
    with ExperienceBuffer.open(tmp_path / "b", CONFIG) as again:
        assert again.recovery.torn_bytes > 0
        again.append(second)
        abandoned(again)
    with ExperienceBuffer.open(tmp_path / "b", CONFIG) as third:
        assert {first.id, second.id} == set(third.ids())
    assert list((tmp_path / "b" / "damaged").glob("*.torn"))


def test_03_a_failed_write_does_not_lose_the_following_ones(tmp_path, make):
    disk = FaultyDisk(error=errno.ENOSPC, short=True)
    buffer = ExperienceBuffer.open(tmp_path / "b", CONFIG.model_copy(update={"disk_retry_s": 0.0}), disk=disk)
    buffer.append(make(0))
    disk.at = disk.count + 1
    with pytest.raises(ExperienceBufferError):
        buffer.append(make(1))
    later = [make(i) for i in range(2, 6)]
    for e in later:
        buffer.append(e)
    abandoned(buffer)
    with ExperienceBuffer.open(tmp_path / "b", CONFIG) as again:
        assert {e.id for e in later} <= set(again.ids()) and len(again) == 5


def test_04_one_bad_byte_loses_one_record_and_a_flipped_digit_never_reads_back(tmp_path, make):
    buffer = ExperienceBuffer.open(tmp_path / "b", CONFIG, disk=FastDisk())
    stored = [make(i) for i in range(99)]
    for e in stored:
        buffer.append(e)
    abandoned(buffer)
    path = tmp_path / "b" / "log" / "0000000001.log"
    at = path.read_bytes().index(b"question 20")
    flip(path, at + 10)  # "question 20" would read "question 21"
    with ExperienceBuffer.open(tmp_path / "b", CONFIG) as again:
        assert len(again) == 98 and stored[20].id not in again
        assert len(again.recovery.damages) == 1
        assert all(again.get(e.id).question == e.question for e in stored if e is not stored[20])


def test_05_a_corrupt_newest_snapshot_loses_nothing(tmp_path, make):
    buffer = ExperienceBuffer.open(tmp_path / "b", CONFIG)
    stored = [make(i) for i in range(20)]
    for i, e in enumerate(stored):
        buffer.append(e)
        if i % 6 == 5:
            buffer.snapshot()
    abandoned(buffer)
    snapshots = sorted((tmp_path / "b" / "snapshots").iterdir(), reverse=True)
    assert len(snapshots) == 3
    for path in snapshots:  # one after the other
        path.write_bytes(path.read_bytes()[:-9])
        with ExperienceBuffer.open(tmp_path / "b", CONFIG, read_only=True) as again:
            assert set(again.ids()) == {e.id for e in stored}


def test_06_ids_do_not_collide_after_eviction(tmp_path, make):
    config = CONFIG.model_copy(update={"capacity_records": 50, "eviction": "oldest"})
    with ExperienceBuffer.open(tmp_path / "b", config, disk=FastDisk()) as buffer:
        stored = [make(i) for i in range(150)]
        for e in stored:
            buffer.append(e)
        assert 49 <= len(buffer) <= 50
        for e in stored[-len(buffer) :]:
            assert buffer.get(e.id).question == e.question
            assert buffer.search_knn(e.visual, 1)[0].id == e.id


def test_07_a_refused_dimension_is_not_stored(tmp_path, make):
    with ExperienceBuffer.open(tmp_path / "b", CONFIG) as buffer:
        buffer.append(make(0))
        before = [path.read_bytes() for path in sorted((tmp_path / "b" / "log").iterdir())]
        with pytest.raises(InvalidExperienceError, match=r"shape \(7,\)"):
            buffer.append(make(1, dimension=7))
        assert len(buffer) == 1
        assert [path.read_bytes() for path in sorted((tmp_path / "b" / "log").iterdir())] == before


def test_08_snapshots_happen_before_anyone_asks(tmp_path, make):
    import time

    config = CONFIG.model_copy(update={"background": True, "snapshot_interval": 10})
    buffer = ExperienceBuffer.open(tmp_path / "b", config)
    for i in range(12):
        buffer.append(make(i))
    deadline = time.monotonic() + 20
    while not list((tmp_path / "b").glob("snapshots/*.snapshot")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list((tmp_path / "b" / "snapshots").glob("*.snapshot"))
    buffer.close()


def test_09_no_lock_deadlocks_on_itself(tmp_path, make):
    """Every public call from within a call back of the buffer's own, and from many threads at once."""
    config = CONFIG.model_copy(update={"capacity_records": 20})
    entered = []

    def redact(experience):
        entered.append(len(buffer))
        buffer.stats()
        buffer.search_knn(np.ones(4), 2)
        if experience.question == "outer":
            buffer.append(make(1, question="inner"))
        return experience

    buffer = ExperienceBuffer.open(tmp_path / "b", config, redact=redact)
    with buffer:
        done = threading.Event()

        def work():
            buffer.append(make(0, question="outer"))
            with buffer._maintenance.busy, buffer._journal.commit.io:
                buffer.snapshot()
                buffer.compact(everything=True)
                buffer.append(make(2))
            done.set()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        assert done.wait(30), "deadlock"
        assert entered


def test_10_folders_are_synced_when_a_name_appears(tmp_path, make):
    disk = RecordingDisk(tmp_path / "b")
    with ExperienceBuffer.open(tmp_path / "b", CONFIG, disk=disk) as buffer:
        buffer.append(make(0))
        calls = list(disk.calls)
        buffer.snapshot()
    created = next(i for i, c in enumerate(calls) if c[0] == "create" and c[1].startswith("log/"))
    data = next(i for i, c in enumerate(calls) if c[0] == "sync" and i > created)
    assert any(c == ("sync_directory", "log") for c in calls[created:data])
    later = disk.calls[len(calls) :]
    renamed = next(i for i, c in enumerate(later) if c[0] == "rename")
    assert ("sync_directory", "snapshots") in later[renamed:]


def test_11_nothing_is_pickled():
    """No module of the buffer imports pickle or a library call that unpickles."""
    root = Path(package.__file__).parent
    modules = list(root.rglob("*.py"))
    assert len(modules) > 20
    for path in modules:
        tree = ast.parse(path.read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not names & {"pickle", "shelve", "marshal", "joblib", "dill", "torch"}, path
        calls = {node.func.attr for node in ast.walk(tree)
                 if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}  # fmt: skip
        assert "load" not in calls or path.name in ("recovery.py", "buffer.py"), path
    assert os.sep  # the walk above is over real files

"""The tools: on living and dead buffers, on good and damaged ones."""

import os
import shutil
import threading

import numpy as np
import pytest
from simulated_disk import FastDisk, flip

from components.ttrl.buffer import (
    BufferConfig,
    BufferDamagedError,
    BufferFormatError,
    BufferLockedError,
    ExperienceBuffer,
    layout,
)
from components.ttrl.buffer.log.segment import open_segments
from components.ttrl.buffer.metrics import prometheus
from components.ttrl.buffer.tools import compact, dump, export_buffer, import_buffer, repair, stat, stat_page, verify
from pipelines.cli import main


@pytest.fixture
def filled(tmp_path, config, make):
    root = tmp_path / "b"
    with ExperienceBuffer.open(root, config, disk=FastDisk()) as buffer:
        for i in range(60):
            buffer.append(make(i), [b"frame %d" % (i % 7) * 30])
        for identity in buffer.ids()[::6]:
            buffer.remove(identity)
        buffer.update(buffer.ids()[0], confidence=0.5)
    return root


def test_stat_of_a_living_buffer(tmp_path, config, make):
    with ExperienceBuffer.open(tmp_path / "b", config) as buffer:
        for i in range(9):
            buffer.append(make(i))
        numbers = stat(tmp_path / "b")
        assert numbers["records"] == 9 and numbers["state"] == "read-only"
        assert numbers["sources"] == {"source0": 3, "source1": 3, "source2": 3}
        assert str(__import__("os").getpid()) in numbers["last_owner"]
        text = prometheus(buffer.stats(), {"buffer": "b"})
        assert 'pixelis_buffer_records{buffer="b"} 9\n' in text
        assert "pixelis_buffer_append_seconds_p99" in text and "pixelis_buffer_index_lag" in text


def test_verify_finds_every_flip(filled):
    report = verify(filled)
    assert report.good and report.frames > 60 and report.snapshots >= 1
    generator = np.random.default_rng(0)
    files = [p for p in filled.rglob("*") if p.is_file() and p.name != "LOCK"]
    for _ in range(60):
        path = files[generator.integers(len(files))]
        offset = int(generator.integers(path.stat().st_size - (path.name == "buffer.json")))
        bit = int(generator.integers(8))
        flip(path, offset, bit)
        if verify(filled).good:  # only the padding between a snapshot's sections is covered by nothing
            assert path.suffix == ".snapshot"
        flip(path, offset, bit)
    assert verify(filled).good


def test_dump(filled):
    records = list(dump(filled, limit=5))
    assert len(records) == 5 and records[0]["confidence"] == 0.5 and records[0]["visual"]["dimension"] == 4
    one = next(dump(filled, ids=[records[2]["id"]], vectors=True))
    assert one["question"] == records[2]["question"] and len(one["visual"]) == 4


def damaged_log(root):
    path = sorted((root / "log").iterdir())[0]
    data = path.read_bytes()
    flip(path, data.index(b"question 1") + 3)


def damaged_identity(root):
    flip(root / "buffer.json", 20)


def missing_identity(root):
    (root / "buffer.json").unlink()


def missing_segment(root):
    sorted((root / "log").iterdir())[1].unlink()


def missing_last_segment(root):
    sorted((root / "log").iterdir())[-1].unlink()


def damaged_snapshots(root):
    for path in (root / "snapshots").iterdir():
        flip(path, 60)


def torn_tail(root):
    path = sorted((root / "log").iterdir())[-1]
    path.write_bytes(path.read_bytes() + b"half a frame")


@pytest.mark.parametrize(
    ("harm", "keeps"),
    [(damaged_log, 49), (damaged_identity, 50), (missing_identity, 50), (missing_segment, 10),
     (missing_last_segment, 10), (damaged_snapshots, 50), (torn_tail, 50)],
    ids=lambda value: getattr(value, "__name__", None),
)  # fmt: skip
def test_repair_keeps_what_can_be_read_and_the_broken_file(filled, config, make, harm, keeps):
    with ExperienceBuffer.open(filled, config, read_only=True) as buffer:
        before = {i: buffer.get(i).question for i in buffer.ids()}
    harm(filled)
    assert not verify(filled).good or harm is torn_tail
    report = repair(filled)
    assert report.actions
    assert verify(filled).good
    with ExperienceBuffer.open(filled, config) as buffer:
        assert not buffer.recovery.damages
        found = {i: buffer.get(i).question for i in buffer.ids()}
        if harm in (missing_segment, missing_last_segment):
            assert keeps <= len(found)
            assert all(before.get(i, q) == q for i, q in found.items())
        else:
            assert len(found) == keeps == report.records
            assert all(before[i] == q for i, q in found.items())
        buffer.append(make(99))
    if harm in (damaged_log, damaged_identity, damaged_snapshots, torn_tail):
        assert list((filled / "damaged").iterdir())
    assert repair(filled).lost_bytes == 0


def test_repair_and_compact_refuse_a_living_buffer(tmp_path, config, make):
    with ExperienceBuffer.open(tmp_path / "b", config) as buffer:
        buffer.append(make(0))
        for tool in (repair, compact):
            with pytest.raises(BufferLockedError):
                tool(tmp_path / "b")


def test_compact(filled, config):
    with ExperienceBuffer.open(filled, config) as buffer:
        for identity in buffer.ids()[10:]:
            buffer.remove(identity)
    assert compact(filled, everything=True) > 0
    with ExperienceBuffer.open(filled, config) as buffer:
        assert len(buffer) == 10
        stats = buffer.stats()
    size = sum(p.stat().st_size for p in (filled / "log").iterdir())
    assert size < 1.1 * stats["live_bytes"] + 200


@pytest.mark.parametrize("adapter", ["file", "lmdb"])
def test_export_and_import(tmp_path, filled, config, adapter):
    target = tmp_path / "all.export"
    assert export_buffer(filled, target) == 50
    with pytest.raises(BufferFormatError, match="already"):
        export_buffer(filled, target)
    into = BufferConfig(adapter=adapter, preallocate=False, lmdb_map_bytes=1 << 26)
    assert import_buffer(tmp_path / "c", target, config=into) == 50
    assert import_buffer(tmp_path / "c", target) == 0
    chosen = config.model_copy(update={"adapter": adapter})
    with ExperienceBuffer.open(filled, config) as a, ExperienceBuffer.open(tmp_path / "c", chosen) as b:
        assert set(a.ids()) == set(b.ids())
        for identity in a.ids():
            x, y = a.get(identity), b.get(identity)
            assert (x.question, x.confidence, list(x.frames)) == (y.question, y.confidence, list(y.frames))
            assert np.array_equal(x.visual, y.visual) and a.frames(identity) == b.frames(identity)
    flip(target, 3000)
    with pytest.raises(BufferDamagedError, match="could not be read"):
        import_buffer(tmp_path / "d", target, config=config)


def test_page(filled):
    page = stat_page(filled)
    assert page.startswith("<!doctype html>") and page.count("data:image/png;base64,") == 2
    assert f"process {os.getpid()} (" in page and "since_s" not in page
    assert "source1" in page and "Neighbours of" in page and "<script" not in page and "http" not in page


def test_page_escapes_what_users_wrote(tmp_path, config, make):
    with ExperienceBuffer.open(tmp_path / "b", config) as buffer:
        buffer.append(make(0, question="<script>alert(1)</script>", label="<b>", source="<i>"))
    page = stat_page(tmp_path / "b")
    assert "<script" not in page and "<b>" not in page.replace("<b>s", "")


def test_tools_refuse_what_is_no_buffer(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "service.log").write_text("started")
    for tool in (stat, stat_page, verify, lambda d: list(dump(d)), compact, repair):
        for path in (tmp_path, tmp_path / "missing", tmp_path / "log" / "service.log"):
            with pytest.raises(BufferFormatError, match="not an experience buffer"):
                tool(path)
    assert [p.name for p in tmp_path.rglob("*")] == ["log", "service.log"]


def test_the_command_ends_with_8_whatever_is_wrong_with_a_buffer(tmp_path, filled, monkeypatch, capfd):
    damaged = tmp_path / "damaged"
    shutil.copytree(filled, damaged)
    damaged_log(damaged)
    for directory, code in ((filled, None), (damaged, 8), (tmp_path / "missing", 8)):
        monkeypatch.setattr("sys.argv", ["pixelis", "buffer", "verify", str(directory)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or None) == code
    said = capfd.readouterr()
    assert "checksum of the body" in said.out and "1 problems" not in said.out
    assert "buffer repair" in said.err and "is not an experience buffer" in said.err


def test_files_that_are_no_segments_are_left_alone(filled, config):
    (filled / "log" / "notes.log").write_text("mine")
    (filled / "log" / "0000000099.log").mkdir()
    assert verify(filled).good and stat(filled)["records"] == 50
    assert repair(filled).records == 50 and (filled / "log" / "notes.log").read_text() == "mine"


def test_the_owner_removes_what_a_killed_one_left(filled, config):
    for name in ("spare.tmp", "compaction.tmp", "0000000001.log.tmp"):
        (filled / "log" / name).write_bytes(b"\0" * 1000)
    stat(filled)
    assert len(list((filled / "log").glob("*.tmp"))) == 3  # readers touch nothing
    with ExperienceBuffer.open(filled, config) as buffer:
        assert len(buffer) == 50 and not list((filled / "log").glob("*.tmp"))


def test_another_buffers_segment_or_identity_is_refused(tmp_path, filled, config, make):
    with ExperienceBuffer.open(tmp_path / "c", config.model_copy(update={"dimension": 8}), disk=FastDisk()) as buffer:
        buffer.append(make(0, dimension=8))
    own = (filled / layout.NAME).read_bytes()
    shutil.copy(tmp_path / "c" / layout.NAME, filled / layout.NAME)
    with pytest.raises(BufferFormatError, match="belongs to another buffer"):
        stat(filled)
    (filled / layout.NAME).write_bytes(own)
    shutil.copy(next((tmp_path / "c" / "log").iterdir()), filled / "log" / "0000000001.log")
    for read_only in (True, False):
        with pytest.raises(BufferFormatError, match="belongs to another buffer"):
            ExperienceBuffer.open(filled, config, read_only=read_only)


@pytest.mark.parametrize(
    "change", [{"dimension": -3}, {"dimension": "4"}, {"adapter": "tape"}, {"id": None}, {"format": None}], ids=str
)
def test_an_identity_that_says_what_none_can_is_damaged(filled, change):
    content = {k: v for k, v in {**layout.read(filled / layout.NAME), **change}.items() if v is not None}
    (filled / layout.NAME).write_bytes(layout.sealed(content))
    with pytest.raises(BufferFormatError, match="is damaged"):
        stat(filled)
    assert not verify(filled).good
    assert repair(filled).records == 50


def test_a_log_cut_to_nothing_is_reported_when_it_is_opened(filled, config):
    for path in (filled / "log").iterdir():
        path.write_bytes(b"")
    with ExperienceBuffer.open(filled, config, read_only=True) as buffer:
        assert buffer.recovery.damages and buffer.recovery.dropped_bytes > 1000


def test_repair_accepts_that_the_whole_log_is_lost(filled):
    shutil.rmtree(filled / "log")
    with pytest.raises(BufferFormatError, match="buffer repair"):
        stat(filled)
    assert repair(filled).records == 0 and verify(filled).good


def test_import_looks_at_its_target_first(tmp_path, filled):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("dear")
    with pytest.raises(BufferFormatError, match="not an experience buffer"):
        import_buffer(tmp_path / "letters", tmp_path / "no such export")


def test_compaction_ends_where_only_removals_are_left(tmp_path, config, make):
    """A segment of nothing but removals that must be kept is not rewritten again and again."""
    with ExperienceBuffer.open(tmp_path / "b", config, disk=FastDisk()) as buffer:
        stored = [make(i) for i in range(120)]
        for e in stored:
            buffer.append(e)
        for e in stored[::8]:  # too few in each segment for it to be worth a rewrite
            buffer.remove(e.id)
        buffer._store.seal()
        runs = 0
        while buffer.compact():
            runs += 1
            assert runs < 20
        assert len(buffer) == 105


def test_export_and_dump_give_what_can_be_read_and_say_what_cannot(tmp_path, filled, config):
    with ExperienceBuffer.open(filled, config, read_only=True) as buffer:
        digest = buffer.get(buffer.ids()[0]).frames[0]
        holders = {i for i in buffer.ids() if digest in buffer.get(i).frames}
        address = buffer._state.frames.blobs[bytes.fromhex(digest)].address
        number, offset = address >> 33, address & ((1 << 33) - 1)
    flip(filled / "log" / f"{number:010d}.log", offset + 70)
    with pytest.raises(BufferDamagedError, match=f"{len(holders)} records cannot be read"):
        export_buffer(filled, tmp_path / "rest")
    assert not (tmp_path / "rest.tmp").exists()
    assert import_buffer(tmp_path / "c", tmp_path / "rest", config=config) == 50 - len(holders)
    assert len(list(dump(filled))) == 50  # the records themselves are whole


def test_an_export_without_what_opening_left_out_ends_with_8(tmp_path, filled, config, monkeypatch, capfd):
    """A script that exports before a move must notice; a damaged snapshot alone loses nothing."""
    damaged_snapshots(filled)
    for harm, name, code in ((None, "whole", None), (damaged_log, "rest", 8)):
        if harm:
            harm(filled)
        monkeypatch.setattr("sys.argv", ["pixelis", "buffer", "export", str(filled), str(tmp_path / name)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or None) == code
    said = capfd.readouterr().err
    assert "1 damaged places were left out, 49 records are in" in said and "buffer verify" in said
    assert import_buffer(tmp_path / "c", tmp_path / "whole", config=config) == 50
    assert import_buffer(tmp_path / "d", tmp_path / "rest", config=config) == 49


def test_a_newer_format_is_refused_by_every_tool_and_nothing_is_touched(filled):
    identity = layout.read(filled / layout.NAME)
    (filled / layout.NAME).write_bytes(layout.sealed({**identity, "format": layout.FORMAT + 1}))
    before = {p: p.read_bytes() for p in filled.rglob("*") if p.is_file()}
    tools = (stat, stat_page, verify, lambda d: list(dump(d)), compact, repair, lambda d: export_buffer(d, d / "out"))
    for tool in tools:
        with pytest.raises(BufferFormatError, match="has format 2, this code reads up to 1"):
            tool(filled)
    assert {p: p.read_bytes() for p in filled.rglob("*") if p.is_file()} == before


def test_repair_leaves_alone_what_is_no_buffer(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BufferFormatError, match="not an experience buffer"):
            repair(path)
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


def test_readers_see_a_whole_buffer_while_its_owner_writes_and_compacts(tmp_path, config, make):
    """Segments vanish, appear, shrink and are half written under them: no error, no false alarm, no record missing."""
    settings = config.model_copy(update={"snapshot_interval": 10, "preallocate": True, "segment_bytes": 8192})
    stop, failures = threading.Event(), []
    kept = [make(i, source="kept") for i in range(60)]
    with ExperienceBuffer.open(tmp_path / "b", settings, disk=FastDisk()) as buffer:
        for e in kept:
            buffer.append(e)

        def own():
            count = 0
            try:
                while not stop.is_set():
                    gone = make(count)
                    buffer.append(gone, [b"frame %d" % (count % 9) * 20])
                    buffer.remove(gone.id)
                    count += 1
                    if count % 5 == 0:
                        buffer.snapshot()
                    if count % 15 == 0:
                        buffer.compact(everything=count % 30 == 0)
            except Exception as error:
                failures.append(error)

        owner = threading.Thread(target=own)
        owner.start()
        try:
            for _ in range(40):
                with ExperienceBuffer.open(tmp_path / "b", settings, read_only=True) as view:
                    assert not view.recovery.damages
                    assert {view.get(e.id).question for e in kept} == {e.question for e in kept}
                report = verify(tmp_path / "b")
                assert report.good, report.problems
        finally:
            stop.set()
            owner.join()
    assert not failures


def test_a_view_copies_what_its_owner_may_cut_off(tmp_path, config, make):
    """Touching a mapping behind the end of its file kills the process."""
    settings = config.model_copy(update={"segment_bytes": 1 << 20, "preallocate": True})
    with ExperienceBuffer.open(tmp_path / "b", settings, disk=FastDisk()) as buffer:
        while not buffer._store.writer or not buffer._store.writer._room:  # the first one may have come too early
            buffer.append(make(0))
        segment = open_segments(tmp_path / "b" / "log")[buffer._store.active]
        assert segment.size() == 1 << 20
        for newest in (True, False):
            seen = segment.view_beside_owner(newest=newest)
            assert len(seen) == 1 << 20
        whole = bytes(seen)
        buffer._store.seal()
        assert segment.size() < 1 << 20
        assert bytes(seen) == whole

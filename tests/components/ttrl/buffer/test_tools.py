"""The tools: on living and dead buffers, on good and damaged ones."""

import numpy as np
import pytest
from simulated_disk import FastDisk, flip

from components.ttrl.buffer import (
    BufferConfig,
    BufferDamagedError,
    BufferFormatError,
    BufferLockedError,
    ExperienceBuffer,
)
from components.ttrl.buffer.metrics import prometheus
from components.ttrl.buffer.tools import compact, dump, export_buffer, import_buffer, repair, stat, stat_page, verify


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
    assert not verify(filled).good or harm in (torn_tail, missing_last_segment)
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
    assert "source1" in page and "Neighbours of" in page and "<script" not in page and "http" not in page


def test_page_escapes_what_users_wrote(tmp_path, config, make):
    with ExperienceBuffer.open(tmp_path / "b", config) as buffer:
        buffer.append(make(0, question="<script>alert(1)</script>", label="<b>", source="<i>"))
    page = stat_page(tmp_path / "b")
    assert "<script" not in page and "<b>" not in page.replace("<b>s", "")


def test_tools_refuse_what_is_no_buffer(tmp_path):
    for tool in (stat, stat_page, lambda d: list(dump(d)), compact):
        with pytest.raises(BufferFormatError, match="not an experience buffer"):
            tool(tmp_path)


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

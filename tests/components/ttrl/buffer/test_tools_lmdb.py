"""The tools on an LMDB buffer whose environment is lost, cut short, half exchanged or damaged."""

import shutil

import pytest
from simulated_disk import flip

from components.ttrl.buffer import BufferDamagedError, BufferFormatError, ExperienceBuffer, layout
from components.ttrl.buffer.tools import compact, dump, export_buffer, import_buffer, repair, stat, stat_page, verify


@pytest.fixture
def environment(tmp_path, config, make):
    """An LMDB buffer of five records, and its section."""
    chosen = config.model_copy(update={"adapter": "lmdb", "lmdb_map_bytes": 1 << 22})
    with ExperienceBuffer.open(tmp_path / "b", chosen) as buffer:
        for i in range(5):
            buffer.append(make(i))
    return tmp_path / "b", chosen


def test_an_lmdb_environment_that_cannot_be_opened_is_damage(environment):
    root, _ = environment
    (root / "data" / "data.mdb").write_bytes(b"no page" * 2000)
    for tool in (stat, verify):
        with pytest.raises(BufferDamagedError, match="cannot be opened"):
            tool(root)


def without_folder(root):
    shutil.rmtree(root / "data")


def without_file(root):
    (root / "data" / "data.mdb").unlink()


def with_empty_file(root):
    (root / "data" / "data.mdb").write_bytes(b"")


@pytest.mark.parametrize("harm", [without_folder, without_file, with_empty_file])
def test_an_lmdb_environment_that_is_gone_is_refused_by_all(environment, tmp_path, harm):
    """An owner would begin an empty one in its place, and nobody would miss the records."""
    root, chosen = environment
    export_buffer(root, tmp_path / "all.export")
    harm(root)
    left = sorted(p.name for p in root.rglob("*"))
    owner = [lambda d: ExperienceBuffer.open(d, chosen), lambda d: ExperienceBuffer.open(d, chosen, read_only=True)]
    for tool in (*owner, stat, stat_page, verify, lambda d: list(dump(d)), compact, repair,
                 lambda d: import_buffer(d, tmp_path / "all.export"),
                 lambda d: export_buffer(d, d / "out")):  # fmt: skip
        with pytest.raises(BufferFormatError, match=r"data/data\.mdb is missing") as refused:
            tool(root)
        assert "buffer import" in refused.value.remedy
    assert sorted(p.name for p in root.rglob("*")) == left
    assert import_buffer(tmp_path / "c", tmp_path / "all.export") == 5


def test_an_lmdb_buffer_whose_making_was_cut_short_is_made_again(environment, tmp_path):
    root, chosen = environment
    (tmp_path / "c" / "data").mkdir(parents=True)  # killed before the environment, or before the identity
    for prepare in (lambda: None, (tmp_path / "c" / layout.NAME).unlink):
        prepare()
        with ExperienceBuffer.open(tmp_path / "c", chosen) as buffer:
            assert not len(buffer)
    (root / layout.NAME).unlink()
    with pytest.raises(BufferFormatError, match="holds a log but no"):  # this one has records
        ExperienceBuffer.open(root, chosen)


def test_an_lmdb_buffer_opens_after_a_crash_between_the_renames_of_shrink(environment):
    root, chosen = environment
    (root / "data").rename(root / "data.old")
    assert repair(root).records == 5
    with ExperienceBuffer.open(root, chosen) as buffer:
        assert len(buffer) == 5


def test_repair_leaves_damaged_entries_out_and_keeps_the_broken_file(environment):
    root, _ = environment
    path = root / "data" / "data.mdb"
    data = path.read_bytes()
    for at in [i for i in range(len(data)) if data.startswith(b"question 3", i)]:
        flip(path, at)
    broken = path.read_bytes()
    assert not verify(root).good
    report = repair(root)
    assert report.records == 4 and report.lost_bytes > 50 and verify(root).good
    assert (root / "damaged" / "data.mdb.broken").read_bytes() == broken
    assert repair(root).actions == []


def damaged_identity(root):
    flip(root / layout.NAME, 20)


def missing_identity(root):
    (root / layout.NAME).unlink()


@pytest.mark.parametrize("harm", [damaged_identity, missing_identity])
def test_repair_rebuilds_the_identity(environment, harm):
    root, _ = environment
    harm(root)
    assert not verify(root).good
    report = repair(root)
    assert report.records == 5 and "rebuilt" in " ".join(report.actions) and verify(root).good

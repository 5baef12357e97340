"""Redaction before a byte is written; erasure and retention that leave no byte in the directory."""

import re
from dataclasses import replace

import numpy as np
import pytest
from simulated_disk import FastDisk, flip

from components.ttrl.buffer import BufferConfig, Experience, ExperienceBuffer, IndexConfig


@pytest.fixture(params=["file", "lmdb"])
def settings(request):
    return BufferConfig(
        dimension=8, adapter=request.param, segment_bytes=4096, preallocate=False, background=False, min_free_bytes=0,
        lmdb_map_bytes=1 << 26, index=IndexConfig(kind="hnsw", matryoshka_width=4), generations=3,
    )  # fmt: skip


def grep(root, needles):
    """Files that hold any of the needles, and which."""
    hits = []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        data = path.read_bytes()
        hits += [(path.name, needle[:20]) for needle in needles if needle in data]
    return hits


def person(number, name):
    vector = np.random.default_rng(number).standard_normal(8).astype(np.float32)
    return Experience(
        question=f"What does {name} pack in box {number}?", visual=vector, subject=name, source=f"key-of-{name}",
        label=f"label-{name}", attributes={"note": f"{name} was here {number}"},
    )  # fmt: skip


@pytest.mark.parametrize("by", ["ids", "sources", "subjects"])
def test_erasure_leaves_no_byte(tmp_path, inline_builder, settings, by):
    root = tmp_path / "b"
    with ExperienceBuffer.open(root, settings, disk=FastDisk()) as buffer:
        secret, other = [], []
        for i in range(60):
            e = person(i, "Aldebaran" if i % 3 == 0 else "Betelgeuse")
            buffer.append(e, [f"image of {e.subject} {i}".encode() * 9, b"a shared background" * 9])
            (secret if i % 3 == 0 else other).append(e)
            if i % 20 == 19:
                buffer.snapshot()
        buffer.update(secret[0].id, label="Aldebaran relabelled")
        buffer.update(secret[1].id, confidence=0.5)
        buffer.remove(secret[2].id)  # removed before, its bytes still in the log
        buffer.rebuild_index()
        if settings.adapter == "file":
            (root / "damaged").mkdir()
            (root / "damaged" / "0000000001-5.torn").write_bytes(b"Aldebaran")
        vectors = [e.visual.tobytes() for e in secret]
        needles = [b"Aldebaran", *vectors, *(bytes.fromhex(e.id.replace("-", "")) for e in secret)]
        assert grep(root, needles)
        ids = [e.id for e in secret]
        erased = buffer.erase(ids=ids) if by == "ids" else buffer.erase(
            sources=["key-of-Aldebaran"] if by == "sources" else [],
            subjects=["Aldebaran"] if by == "subjects" else [],
        )  # fmt: skip
        assert erased == len(secret) - 1
        if by == "ids":
            assert not grep(root, needles)
        else:  # the one removed earlier is nobody's by now: only its id can name it
            buffer.erase(ids=[secret[2].id])
            assert not grep(root, needles)
        assert set(buffer.ids()) == {e.id for e in other}
        assert all(n.id in set(buffer.ids()) for n in buffer.search_knn(secret[0].visual, 60))
        buffer.rebuild_index()
        assert not grep(root, needles)
        assert all(buffer.frames(e.id)[1] == b"a shared background" * 9 for e in other)
    assert not grep(root, needles)
    with ExperienceBuffer.open(root, settings, disk=FastDisk()) as buffer:
        assert set(buffer.ids()) == {e.id for e in other} and not buffer.recovery.damages
        buffer.append(person(99, "Canopus"))
        buffer.snapshot()
    assert not grep(root, needles)


def test_retention_overwrites_what_is_too_old(tmp_path, settings):
    now = [1e9]
    config = settings.model_copy(update={"retention_days": 90.0})
    root = tmp_path / "b"
    with ExperienceBuffer.open(root, config, disk=FastDisk(), clock=lambda: now[0]) as buffer:
        old = [replace(person(i, "Aldebaran"), created_s=now[0]) for i in range(10)]
        for e in old:
            buffer.append(e, [b"old frame of Aldebaran"])
        now[0] += 89 * 86_400
        young = [replace(person(i, "Betelgeuse"), created_s=now[0]) for i in range(10, 20)]
        for e in young:
            buffer.append(e)
        buffer.snapshot()
        assert buffer.expire() == 0
        now[0] += 2 * 86_400
        assert buffer.expire() == 10
        assert not grep(root, [b"Aldebaran"])
        assert set(buffer.ids()) == {e.id for e in young}


def test_retention_goes_on_where_it_could_not_delete_and_reaches_what_was_removed_before(tmp_path, settings):
    now = [1e9]
    root = tmp_path / "b"
    with ExperienceBuffer.open(root, settings, disk=FastDisk(), clock=lambda: now[0]) as buffer:
        old = [replace(person(i, "Aldebaran"), created_s=now[0]) for i in range(30)]
        for e in old:
            buffer.append(e)
        for e in old[:29]:
            buffer.remove(e.id)
        (root / "damaged").symlink_to(tmp_path)
        now[0] += 100 * 86_400
        with pytest.raises(OSError, match="symbolic link"):
            buffer.expire()
        assert not len(buffer)
        (root / "damaged").unlink()
        assert buffer.expire() == 0
        assert not grep(root, [b"Aldebaran"])


@pytest.mark.parametrize("settings", ["lmdb"], indirect=True)
@pytest.mark.parametrize("failing", ["data", "data.tmp"])
def test_an_environment_that_could_not_be_exchanged_stays_in_use(tmp_path, settings, failing):
    class Refusing(FastDisk):
        refuses = True

        def rename(self, source, target):
            if self.refuses and source.name == failing:
                raise OSError(5, "refused")
            super().rename(source, target)

    root, disk = tmp_path / "b", Refusing()
    with ExperienceBuffer.open(root, settings, disk=disk) as buffer:
        for e in (person(0, "Aldebaran"), person(1, "Betelgeuse")):
            buffer.append(e)
        with pytest.raises(OSError, match="refused"):
            buffer.erase(subjects=["Aldebaran"])
        assert buffer.get(buffer.ids()[0]).subject == "Betelgeuse"
        buffer.append(person(2, "Canopus"))
        (root / "data.old").mkdir()
        (root / "data.old" / "data.mdb").write_bytes(b"Aldebaran")
        disk.refuses = False
        buffer.erase(ids=[e.id for e in map(buffer.get, buffer.ids()) if e.subject == "Canopus"])
        assert not grep(root, [b"Aldebaran", b"Canopus"]) and len(buffer) == 1


def test_redaction_comes_before_the_first_byte(tmp_path, settings):
    def redact(experience):
        return replace(experience, question=experience.question.replace("Aldebaran", "[name]"), subject="s1",
                       source="k", label="l", attributes={})  # fmt: skip

    root = tmp_path / "b"
    with ExperienceBuffer.open(root, settings, disk=FastDisk(), redact=redact) as buffer:
        e = person(1, "Aldebaran")
        buffer.append(e)
        buffer.update(e.id, question="Aldebaran again")
        assert buffer.get(e.id).question == "[name] again"
        assert e.question == "What does Aldebaran pack in box 1?"
    assert not grep(root, [b"Aldebaran"])


def test_retention_works_in_the_background(tmp_path):
    import time

    config = BufferConfig(dimension=8, preallocate=False, min_free_bytes=0, retention_days=1.0)
    with ExperienceBuffer.open(tmp_path / "b", config, disk=FastDisk()) as buffer:
        e = person(1, "Aldebaran")
        buffer.append(replace(e, created_s=time.time() - 2 * 86_400))
        buffer._maintenance._next_expiry = 0.0
        deadline = time.monotonic() + 20
        while len(buffer) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not len(buffer)
        buffer.stats()
    assert not grep(tmp_path / "b", [b"Aldebaran"])


BY = {"ids": lambda chosen: {"ids": [e.id for e in chosen]}, "sources": lambda _: {"sources": ["key-of-Aldebaran"]},
      "subjects": lambda _: {"subjects": ["Aldebaran"]}}  # fmt: skip


@pytest.mark.parametrize("by", BY)
def test_erasure_reaches_what_is_no_record_any_more(tmp_path, settings, by):
    """Removed and evicted records, older versions of a record that has another source, subject and label now."""
    root = tmp_path / "b"
    with ExperienceBuffer.open(root, settings.model_copy(update={"capacity_records": 50}), disk=FastDisk()) as buffer:
        chosen = [person(i, "Aldebaran") for i in range(20)]
        for i, e in enumerate(chosen):
            buffer.append(e, [b"a shared background" * 9])
            buffer.append(person(1000 + i, "Canopus"))
        other = person(99, "Aldebaran")
        buffer.append(other)
        buffer.update(other.id, question="?", source="s", subject="Betelgeuse", label="l", attributes={})
        buffer.remove(chosen[0].id)
        for i in range(100, 120):
            buffer.append(person(i, "Betelgeuse"), [b"a shared background" * 9])
        assert buffer.stats()["evicted"] > 5
        for e in chosen:
            if e.id in buffer:
                buffer.remove(e.id)
        buffer.erase(**BY[by]([*chosen, other] if by == "ids" else chosen))
        assert not grep(root, [b"Aldebaran", *(e.visual.tobytes() for e in chosen)])
        assert (other.id in buffer) == (by != "ids")
        kept = buffer.ids()
        assert {f for i in kept for f in buffer.frames(i)} == {b"a shared background" * 9}
    with ExperienceBuffer.open(root, settings, disk=FastDisk()) as buffer:
        assert buffer.ids() == kept and not buffer.recovery.damages


@pytest.mark.parametrize("by", BY)
def test_erasure_reaches_damaged_bytes(tmp_path, settings, by):
    """Whose they were cannot be told: they go with any erasure, as the files that repairs kept do."""
    root = tmp_path / "b"
    with ExperienceBuffer.open(root, settings, disk=FastDisk()) as buffer:
        stored = [person(i, "Aldebaran" if i in (0, 20, 40) else "Betelgeuse") for i in range(60)]
        for e in stored:
            buffer.append(e)
    chosen = stored[:60:20]
    for path in [*(root / "log").glob("*.log"), root / "data" / "data.mdb"]:
        data = path.read_bytes() if path.exists() else b""
        for needle in (b"pack in box 20?", b"pack in box 40?"):
            for found in re.finditer(re.escape(needle), data):
                flip(path, found.start())
    with ExperienceBuffer.open(root, settings, disk=FastDisk()) as buffer:
        assert len(buffer) == 58 and len(buffer.recovery.damages) == 2
        assert buffer.erase(**BY[by](chosen)) == 1
        assert not grep(root, [b"Aldebaran", *(e.visual.tobytes() for e in chosen)])
    with ExperienceBuffer.open(root, settings, disk=FastDisk()) as buffer:
        assert len(buffer) == 57 and not buffer.recovery.damages


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("settings", ["file"], indirect=True)
def test_erasure_reaches_snapshots_of_a_log_that_is_shorter_now(tmp_path, settings, by):
    """They are named by a higher sequence number than what is written after."""
    root = tmp_path / "b"
    with ExperienceBuffer.open(root, settings, disk=FastDisk()) as buffer:
        chosen = [person(0, "Aldebaran")]
        for e in [*chosen, *(person(i, "Betelgeuse") for i in range(1, 40))]:
            buffer.append(e)
    last = sorted((root / "log").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:200])
    with ExperienceBuffer.open(root, settings, disk=FastDisk()) as buffer:
        assert 0 < len(buffer) < 40
        assert buffer.erase(**BY[by](chosen)) == 1
        assert not grep(root, [b"Aldebaran"])
        kept = buffer.ids()
    with ExperienceBuffer.open(root, settings, disk=FastDisk()) as buffer:
        assert buffer.ids() == kept and buffer.recovery.snapshot_sequence > 0


@pytest.mark.parametrize("by", BY)
def test_erasure_reaches_what_repairs_and_killed_processes_left(tmp_path, inline_builder, settings, by):
    root = tmp_path / "b"
    with ExperienceBuffer.open(root, settings, disk=FastDisk()) as buffer:
        chosen = [person(i, "Aldebaran") for i in range(30)]
        for e in chosen:
            buffer.append(e, [b"image of Aldebaran"])
            if len(buffer) % 8 == 0:
                buffer.snapshot()
        buffer.append(person(99, "Betelgeuse"), [b"image"])
        buffer.rebuild_index()
    inside = ["data.tmp/data.mdb", "data.old/data.mdb"] if settings.adapter == "lmdb" else [
        "log/spare.tmp", "log/compaction.tmp", "log/0000000001.log.tmp", "snapshots/00000000000000000009.snapshot.tmp",
    ]  # fmt: skip
    for name in [*inside, "index/vectors.tmp", "index/built.tmp", "index/current.index.tmp", "damaged/a.log.broken",
                 "damaged/deep/data.mdb.broken", "damaged/b.torn.tmp"]:  # fmt: skip
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"Aldebaran" + chosen[0].visual.tobytes())
    if settings.adapter == "file":
        flip(sorted((root / "snapshots").glob("*.snapshot"))[-1], 40)
    with ExperienceBuffer.open(root, settings, disk=FastDisk()) as buffer:
        assert buffer.erase(**BY[by](chosen)) == 30
        assert not grep(root, [b"Aldebaran", *(e.visual.tobytes() for e in chosen)])
        assert len(buffer) == 1 and buffer.frames(buffer.ids()[0]) == [b"image"]


def test_erasure_says_when_it_cannot_delete(tmp_path, settings):
    """A folder of broken files that was moved to another disk."""
    root = tmp_path / "b"
    with ExperienceBuffer.open(root, settings, disk=FastDisk()) as buffer:
        buffer.append(person(0, "Aldebaran"))
        (tmp_path / "elsewhere").mkdir()
        (root / "damaged").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="symbolic link"):
            buffer.erase(subjects=["Aldebaran"])
        (root / "damaged").unlink()
        buffer.erase(subjects=["Aldebaran"])
        assert not grep(root, [b"Aldebaran"])


def test_no_erased_byte_stays_in_the_slack_of_pages(tmp_path, settings):
    """Values of every size, many rewritten: what LMDB does not overwrite in a page it uses again must not hold them."""
    root = tmp_path / "b"
    generator = np.random.default_rng(0)
    with ExperienceBuffer.open(root, settings, disk=FastDisk()) as buffer:
        for turn in range(4):
            for i in range(60):
                name = "Aldebaran" if i % 2 else "Betelgeuse"
                note = f"{name} " * int(generator.integers(1, 900))
                buffer.append(replace(person(i, name), attributes={"note": note}))
            for identity in buffer.ids()[::3]:
                if buffer.get(identity).subject == "Betelgeuse":
                    note = "Betelgeuse " * int(generator.integers(1, 400))
                    buffer.update(identity, attributes={"note": note})
            buffer.erase(subjects=["Aldebaran"])
            assert not grep(root, [b"Aldebaran"]), turn

"""Redaction before a byte is written; erasure and retention that leave no byte in the directory."""

from dataclasses import replace

import numpy as np
import pytest
from simulated_disk import FastDisk

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

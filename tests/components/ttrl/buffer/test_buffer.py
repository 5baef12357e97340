"""The interface: what goes in comes out, once, by every way of asking; the same on both adapters."""

import asyncio
import threading

import numpy as np
import pytest
from simulated_disk import FastDisk

from components.ttrl.buffer import (
    BufferConfig,
    BufferFormatError,
    BufferLockedError,
    BufferNotReadyError,
    DuplicateIdError,
    Experience,
    ExperienceBuffer,
    InvalidExperienceError,
    MissingFrameError,
    RecordNotFoundError,
    digest_of,
)
from components.ttrl.buffer.layout import FORMAT


@pytest.fixture(params=["file", "lmdb"])
def settings(request):
    return BufferConfig(
        dimension=4, adapter=request.param, segment_bytes=4096, preallocate=False, background=False, min_free_bytes=0,
        lmdb_map_bytes=1 << 26,
    )  # fmt: skip


@pytest.fixture
def buffer(tmp_path, settings):
    with ExperienceBuffer.open(tmp_path / "b", settings) as opened:
        yield opened


def same(a, b):
    for name in Experience.__slots__:
        x, y = getattr(a, name), getattr(b, name)
        if name in ("visual", "text"):
            assert (x is None) == (y is None)
            assert x is None or np.array_equal(np.asarray(x, np.float32), y)
        elif name in ("confidence", "reward"):
            assert y == np.float32(x)
        elif name not in ("sequence", "frames"):
            assert list(x) == list(y) if name == "trajectory" else x == y, name


def test_every_field_comes_back(buffer):
    experience = Experience(
        question="Was wird gepackt? 🎁", visual=np.arange(4.0), text=-np.arange(4.0), trace_id="trace", source="key 1",
        subject="person", label="Picking", created_s=123.5, trajectory=[{"name": "ZOOM_IN", "arguments": {"frame": 8},
        "result": b"\x00\x01"}], votes={"a": 0.75}, confidence=0.5, reward=-1.25, rewards={"vote": 1.0, "cost": -2.25},
        retrieval_count=4, success_count=1, priority=0.3, attributes={"model": "digest", "list": [1, None, True]},
    )  # fmt: skip
    frames = [b"first", b"second", b"first"]
    sequence = buffer.append(experience, frames)
    stored = buffer.get(experience.id)
    same(experience, stored)
    assert stored.sequence == sequence and stored.success_rate == 0.25
    assert buffer.frames(experience.id) == frames
    assert list(stored.frames) == [digest_of(f) for f in frames]


def test_it_is_all_there_after_a_restart(tmp_path, settings, make):
    stored = [make(i, reward=i / 10) for i in range(30)]
    with ExperienceBuffer.open(tmp_path / "b", settings) as buffer:
        for i, e in enumerate(stored):
            buffer.append(e, [b"shared", b"own %d" % i])
        buffer.update(stored[3].id, confidence=0.75, priority=0.5)
        buffer.update(stored[4].id, label="other", votes={"x": 1.0})
        buffer.record_retrieval([stored[5].id, stored[6].id, stored[5].id], success=True)
        buffer.record_retrieval([stored[6].id], success=False)
        buffer.remove(stored[7].id)
        before = buffer.stats()
    with ExperienceBuffer.open(tmp_path / "b", settings) as buffer:
        assert len(buffer) == 29 and stored[7].id not in buffer
        assert buffer.get(stored[3].id).confidence == 0.75 and buffer.get(stored[3].id).priority == 0.5
        assert buffer.get(stored[4].id).label == "other" and buffer.get(stored[4].id).votes == {"x": 1.0}
        assert buffer.get(stored[4].id).frames == buffer.get(stored[4].id).frames
        five, six = buffer.get(stored[5].id), buffer.get(stored[6].id)
        assert (five.retrieval_count, five.success_count) == (2, 2)
        assert (six.retrieval_count, six.success_count) == (2, 1)
        after = buffer.stats()
        assert {k: after[k] for k in ("records", "frames", "live_bytes")} == {
            k: before[k] for k in ("records", "frames", "live_bytes")
        }
        assert buffer.frames(stored[9].id) == [b"shared", b"own 9"]


def test_frames_are_stored_once_and_go_with_the_last_that_has_them(buffer, make):
    first, second = make(0), make(1)
    buffer.append(first, [b"x" * 500])
    size = buffer.stats()["live_bytes"]
    buffer.append(second, [b"x" * 500])
    assert buffer.stats()["live_bytes"] - size < 500 and buffer.stats()["frames"] == 1
    buffer.remove(first.id)
    assert buffer.frames(second.id) == [b"x" * 500]
    third = make(2, frames=[digest_of(b"x" * 500)])
    buffer.append(third)
    buffer.remove(second.id)
    buffer.compact(everything=True)
    assert buffer.frames(third.id) == [b"x" * 500]
    buffer.remove(third.id)
    with pytest.raises(RecordNotFoundError):
        buffer.frame(digest_of(b"x" * 500))


def test_the_same_append_again_is_stored_once(buffer, make):
    e = make(0)
    sequence = buffer.append(e)
    assert buffer.append(e) == sequence and len(buffer) == 1
    buffer.update(e.id, confidence=0.5)
    assert buffer.append(e) == sequence
    with pytest.raises(DuplicateIdError, match="other content"):
        buffer.append(make(1, id=e.id))
    buffer.update(e.id, label="moved")
    buffer.append(e)
    assert len(buffer) == 1 and buffer.get(e.id).label == "moved"


def test_a_removed_id_may_come_again(buffer, make):
    e = make(0)
    first = buffer.append(e)
    buffer.remove(e.id)
    with pytest.raises(RecordNotFoundError):
        buffer.get(e.id)
    assert buffer.append(e) > first and buffer.get(e.id).question == e.question


def test_concurrent_duplicates_in_one_group(buffer, make):
    """The same experience from many coroutines at once: stored once, all told the same number."""
    e, other = make(0), make(1)

    async def run():
        return await asyncio.gather(
            *(buffer.append_async(e) for _ in range(10)), buffer.append_async(other),
            *(buffer.append_async(make(5, id=e.id)) for _ in range(3)), return_exceptions=True,
        )  # fmt: skip

    results = asyncio.run(run())
    assert len(set(results[:10])) == 1 and len(buffer) == 2
    assert all(isinstance(r, DuplicateIdError) for r in results[11:])


def test_updates_of_one_record_in_one_group_all_count(buffer, make):
    e = make(0)
    buffer.append(e)

    async def run():
        await asyncio.gather(
            buffer.update_async(e.id, confidence=0.5), buffer.update_async(e.id, reward=2.0),
            buffer.update_async(e.id, label="new"), buffer.update_async(e.id, priority=0.25),
        )  # fmt: skip

    asyncio.run(run())
    stored = buffer.get(e.id)
    assert (stored.confidence, stored.reward, stored.label, stored.priority) == (0.5, 2.0, "new", 0.25)


def test_threads_and_coroutines_write_together(buffer, make):
    stored = [make(i) for i in range(300)]

    def work(part):
        for e in part:
            buffer.append(e)

    async def run():
        await asyncio.gather(*(buffer.append_async(e) for e in stored[200:]))

    threads = [threading.Thread(target=work, args=(stored[k:200:4],)) for k in range(4)]
    for thread in threads:
        thread.start()
    asyncio.run(run())
    for thread in threads:
        thread.join()
    assert set(buffer.ids()) == {e.id for e in stored}
    sequences = [buffer.get(e.id).sequence for e in stored]
    assert len(set(sequences)) == 300


def test_group_commit_shares_flushes(tmp_path, make):
    class Counting(FastDisk):
        flushes = 0

        def sync(self, descriptor):
            Counting.flushes += 1

    config = BufferConfig(dimension=4, preallocate=False, background=False)
    with ExperienceBuffer.open(tmp_path / "b", config, disk=Counting()) as buffer:
        before = Counting.flushes

        async def run():
            await asyncio.gather(*(buffer.append_async(make(i)) for i in range(64)))

        asyncio.run(run())
        assert 1 <= Counting.flushes - before <= 4
        before = Counting.flushes
        for i in range(5):
            buffer.append(make(i))
        assert Counting.flushes - before == 5


BAD = {
    "wrong dimension": ({"visual": np.ones(3)}, r"shape \(3,\)"),
    "matrix": ({"visual": np.ones((1, 4))}, "shape"),
    "NaN": ({"visual": [1, 2, np.nan, 4]}, "NaN or infinity"),
    "infinite": ({"text": [1, 2, -np.inf, 4]}, "NaN or infinity"),
    "no embedding": ({"visual": None}, "neither a visual nor a text"),
    "text for a vector": ({"visual": "abcd"}, "not a vector"),
    "id": ({"id": "seventeen"}, "cannot be encoded"),
    "confidence above 1": ({"confidence": 1.5}, "between 0 and 1"),
    "confidence NaN": ({"confidence": float("nan")}, "not finite"),
    "reward infinite": ({"reward": float("inf")}, "not finite"),
    "negative priority": ({"priority": -1.0}, "negative"),
    "more successes than retrievals": ({"success_count": 1}, "exceeds"),
    "negative count": ({"retrieval_count": -1, "success_count": -2}, "cannot be encoded"),
    "object": ({"attributes": {"x": object()}}, "cannot be encoded"),
    "digest": ({"frames": ["zz"]}, "hex"),
    "oversize": ({"attributes": {"x": b"x" * 20_000_000}}, "the limit is"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_a_byte_is_written(buffer, make, name):
    fields, reason = BAD[name]
    buffer.append(make(0))
    before = buffer.stats()["sequence"]
    with pytest.raises(InvalidExperienceError, match=reason):
        buffer.append(make(1, **fields))
    assert buffer.stats()["sequence"] == before and len(buffer) == 1


def test_a_missing_frame_is_refused(buffer, make):
    with pytest.raises(MissingFrameError, match="neither handed in nor stored"):
        buffer.append(make(0, frames=["00" * 32]))
    assert len(buffer) == 0 and buffer.stats()["sequence"] == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"id": "x"}, "cannot be changed"), ({"sequence": 3}, "cannot be changed"), ({"colour": 1}, "cannot be changed"),
     ({"confidence": 2.0}, "out of range"), ({"success_count": 5}, "out of range"),
     ({"visual": np.ones(9)}, "shape"), ({"frames": ["11" * 32]}, "not stored")],
)  # fmt: skip
def test_bad_updates_change_nothing(buffer, make, changes, reason):
    e = make(0)
    buffer.append(e)
    with pytest.raises(InvalidExperienceError, match=reason):
        buffer.update(e.id, **changes)
    same(e, buffer.get(e.id))


def test_unknown_ids(buffer):
    for call in (buffer.get, buffer.remove, lambda i: buffer.update(i, confidence=0.0)):
        with pytest.raises(RecordNotFoundError):
            call("00000000-0000-7000-8000-000000000000")
        with pytest.raises(RecordNotFoundError, match="not an experience id"):
            call("nonsense")


def test_an_unknown_record_version_is_refused(buffer, make):
    from components.ttrl.buffer import record

    body = bytearray(record.encode(make(0), 4))
    body[64] = 9
    with pytest.raises(BufferFormatError, match="version 9"):
        record.decode(bytes(body), 1)


def test_one_owner_any_number_of_readers(tmp_path, settings, make):
    with ExperienceBuffer.open(tmp_path / "b", settings) as owner:
        e = make(0)
        owner.append(e, [b"frame"])
        with pytest.raises(BufferLockedError, match=r"process \d+ .* since"):
            ExperienceBuffer.open(tmp_path / "b", settings)
        if settings.adapter == "lmdb":
            return  # LMDB refuses a second environment in one process; see the test with a process of its own
        readers = [ExperienceBuffer.open(tmp_path / "b", settings, read_only=True) for _ in range(3)]
        owner.append(make(1))
        owner.remove(e.id)
        owner.compact(everything=True)
        for reader in readers:
            assert reader.frames(e.id) == [b"frame"] and len(reader) == 1
            assert reader.search_knn(e.visual, 1)[0].id == e.id
            for write in (lambda r=reader: r.append(make(2)), lambda r=reader: r.remove(e.id),
                          lambda r=reader: r.update(e.id, confidence=1.0), reader.snapshot, reader.expire):  # fmt: skip
                with pytest.raises(BufferNotReadyError, match="read-only"):
                    write()
            reader.close()


def test_readers_of_another_process(tmp_path, settings, make):
    import subprocess
    import sys
    from pathlib import Path

    code = ("import sys; from pathlib import Path; from components.ttrl.buffer import *\n"
            "b = ExperienceBuffer.open(Path(sys.argv[1]), BufferConfig.parse(sys.argv[2], name='b'), read_only=True)\n"
            "print(len(b), b.get(b.ids()[0]).question)")  # fmt: skip
    with ExperienceBuffer.open(tmp_path / "b", settings) as owner:
        owner.append(make(0))
        out = subprocess.run([sys.executable, "-c", code, str(tmp_path / "b"), settings.canonical()], text=True,
                             capture_output=True, check=True, cwd=Path(__file__).parents[4])  # fmt: skip
    assert out.stdout.strip() == "1 question 0"


def test_a_closed_buffer_says_so(tmp_path, settings, make):
    buffer = ExperienceBuffer.open(tmp_path / "b", settings)
    buffer.append(make(0))
    buffer.close()
    buffer.close()
    for call in (lambda: buffer.append(make(1)), lambda: buffer.search_knn(np.ones(4), 1), lambda: buffer.sample(1)):
        with pytest.raises(BufferNotReadyError, match="closed"):
            call()


def test_directories_that_are_no_buffer(tmp_path, settings, make):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(BufferFormatError, match=r"not an experience buffer .*thesis\.txt"):
        ExperienceBuffer.open(foreign, settings)
    assert [p.name for p in foreign.iterdir()] == ["thesis.txt"]
    with pytest.raises(BufferFormatError, match="not an experience buffer"):
        ExperienceBuffer.open(tmp_path / "nowhere", settings, read_only=True)
    assert not (tmp_path / "nowhere").exists()
    ExperienceBuffer.open(tmp_path / "b", settings).close()
    for name, value in (("dimension", 5), ("adapter", "lmdb" if settings.adapter == "file" else "file")):
        with pytest.raises(BufferFormatError, match=name):
            ExperienceBuffer.open(tmp_path / "b", settings.model_copy(update={name: value}))


def test_a_newer_format_is_refused(tmp_path, settings):
    from components.ttrl.buffer import layout

    ExperienceBuffer.open(tmp_path / "b", settings).close()
    content = layout.read(tmp_path / "b" / "buffer.json")
    (tmp_path / "b" / "buffer.json").write_bytes(layout.sealed({**content, "format": FORMAT + 1}))
    with pytest.raises(BufferFormatError, match=f"format {FORMAT + 1}"):
        ExperienceBuffer.open(tmp_path / "b", settings)


def test_a_missing_segment_is_refused_with_its_name(tmp_path, config, make):
    with ExperienceBuffer.open(tmp_path / "b", config, disk=FastDisk()) as buffer:
        for i in range(100):
            buffer.append(make(i))
    segments = sorted((tmp_path / "b" / "log").iterdir())
    assert len(segments) >= 3
    for path in (segments[1], segments[-1]):  # in the middle; the last, which only the snapshot knows
        kept = path.read_bytes()
        path.unlink()
        with pytest.raises(BufferFormatError, match=f"{path.name}.*repair"):
            ExperienceBuffer.open(tmp_path / "b", config)
        path.write_bytes(kept)
    with ExperienceBuffer.open(tmp_path / "b", config) as buffer:
        assert len(buffer) == 100


def test_both_adapters_give_the_same_answers(tmp_path, make):
    generator = np.random.default_rng(3)
    buffers = [
        ExperienceBuffer.open(tmp_path / a, BufferConfig(dimension=4, adapter=a, preallocate=False, background=False,
                              lmdb_map_bytes=1 << 26), disk=FastDisk(), seed=5)
        for a in ("file", "lmdb")
    ]  # fmt: skip
    stored = [make(i, confidence=i / 60, created_s=1e9 + i) for i in range(60)]
    for buffer in buffers:
        for e in stored:
            buffer.append(e, [b"f%d" % (int(e.confidence * 60) % 5)])
        for i in range(0, 60, 9):
            buffer.remove(stored[i].id)
        buffer.compact(everything=True)
    a, b = buffers
    assert a.ids() == b.ids()
    for _ in range(5):
        q = generator.standard_normal(4)
        assert [n.id for n in a.search_knn(q, 7)] == [n.id for n in b.search_knn(q, 7)]
    assert [e.id for e in a.sample(10).experiences] == [e.id for e in b.sample(10).experiences]
    for buffer in buffers:
        buffer.close()

"""Failing devices, flipped bits, killed processes, clocks that jump: detected, reported, the rest readable."""

import errno
import random
import time

import numpy as np
import pytest
from conftest import SOAK
from simulated_disk import FastDisk, FaultyDisk, flip

from components.ttrl.buffer import (
    BufferConfig,
    BufferDamagedError,
    BufferFullError,
    BufferNotReadyError,
    BufferWriteError,
    ExperienceBuffer,
    ExperienceBufferError,
)

CONFIG = BufferConfig(
    dimension=4, segment_bytes=4096, preallocate=False, background=False, min_free_bytes=0, disk_retry_s=0.0
)  # fmt: skip


def contents(buffer):
    return {i: (buffer.get(i).question, buffer.get(i).visual.tobytes(), buffer.get(i).confidence) for i in buffer.ids()}


def busy(buffer, make, acknowledged, start, count):
    """Appends, updates and removals; `acknowledged` follows what was acknowledged. Returns how many calls failed."""
    failed = 0
    for i in range(start, start + count):
        experience = make(i)
        try:
            if i % 5 == 3 and acknowledged:
                identity = next(iter(acknowledged))
                buffer.update(identity, confidence=0.5)
                question, vector, _ = acknowledged[identity]
                acknowledged[identity] = (question, vector, 0.5)
            elif i % 5 == 4 and acknowledged:
                identity = next(iter(acknowledged))
                buffer.remove(identity)
                del acknowledged[identity]
            else:
                buffer.append(experience)
                acknowledged[experience.id] = (experience.question, experience.visual.tobytes(), experience.confidence)
            if i % 7 == 6:
                buffer.snapshot()
            if i % 11 == 10:
                buffer.compact(everything=True)
        except (OSError, ExperienceBufferError):
            failed += 1
    return failed


@pytest.mark.parametrize("fault", ["EIO", "ENOSPC", "short", "EIO, zeros ahead", "short, zeros ahead"])
def test_a_fault_at_every_call(tmp_path, make, fault):
    """Call after call fails once; what was acknowledged stays, what failed is not half there, and work goes on."""
    fault, ahead, _ = fault.partition(", zeros ahead")
    config = CONFIG.model_copy(update={"preallocate": bool(ahead)})
    number = errno.ENOSPC if fault in ("ENOSPC", "short") else errno.EIO
    counted = FaultyDisk()
    with ExperienceBuffer.open(tmp_path / "count", config, disk=counted) as buffer:
        counted.count = 0
        busy(buffer, make, {}, 0, 40)
    total = counted.count
    assert total > 60
    seen_failures = 0
    for at in range(1, total + 1, 1 if SOAK else 7 if ahead else 3):
        root = tmp_path / f"{at}"
        disk = FaultyDisk(error=number, short=fault == "short")
        disk.sync = lambda descriptor, disk=disk: disk._step("sync")
        disk.armed = False
        acknowledged = {}
        buffer = ExperienceBuffer.open(root, config, disk=disk)
        disk.armed, disk.count, disk.at = True, 0, at
        seen_failures += busy(buffer, make, acknowledged, 0, 40)
        disk.armed = False
        assert contents(buffer) == acknowledged, f"call {at}"
        assert busy(buffer, make, acknowledged, 100, 6) == 0
        assert contents(buffer) == acknowledged
        buffer.close()
        with ExperienceBuffer.open(root, config, disk=FastDisk()) as again:
            assert contents(again) == acknowledged, f"call {at}, reopened"
            assert not again.recovery.damages
    assert seen_failures > (10 if ahead else 20)


def test_failed_write_says_so_and_the_log_stays_usable(tmp_path, make):
    disk = FaultyDisk(error=errno.EIO)
    with ExperienceBuffer.open(tmp_path / "b", CONFIG, disk=disk) as buffer:
        buffer.append(make(0))
        disk.at = disk.count + 1
        lost = make(1)
        with pytest.raises(BufferWriteError, match="nothing was stored"):
            buffer.append(lost)
        assert lost.id not in buffer
        first = buffer.append(make(2))
        assert buffer.append(lost) > first


def test_full_disk_turns_read_only_and_back(tmp_path, make):
    disk = FaultyDisk()
    config = CONFIG.model_copy(update={"min_free_bytes": 1 << 20, "disk_retry_s": 0.05})
    with ExperienceBuffer.open(tmp_path / "b", config, disk=disk) as buffer:
        kept = make(0)
        buffer.append(kept)
        disk.free = 1000
        time.sleep(0.25)
        with pytest.raises(BufferFullError, match=r"disk .* is full") as caught:
            buffer.append(make(1))
        assert isinstance(caught.value, BufferNotReadyError)
        assert buffer.stats()["state"] == "disk full"
        assert buffer.get(kept.id).question == kept.question
        assert buffer.search_knn(kept.visual, 1)[0].id == kept.id
        assert len(buffer.sample(1).experiences) == 1
        with pytest.raises(BufferFullError):
            buffer.update(kept.id, confidence=1.0)
        disk.free = None
        time.sleep(0.06)
        buffer.append(make(2))
        assert buffer.stats()["state"] == "ready"


def filled(root, make, *, snapshot=True, count=30, frames=False):
    config = CONFIG.model_copy(update={"generations": 2})
    with ExperienceBuffer.open(root, config, disk=FastDisk()) as buffer:
        for i in range(count):
            buffer.append(make(i), [b"image %d" % i * 20] if frames else [])
            if snapshot and i == count // 2:
                buffer.snapshot()
        expected = contents(buffer)
    if not snapshot:
        for path in (root / "snapshots").iterdir():
            path.unlink()
    return expected


@pytest.mark.parametrize("snapshot", [True, False], ids=["snapshot", "log alone"])
def test_bit_flips_in_the_log_lose_the_record_they_hit(tmp_path, make, snapshot):
    root = tmp_path / "b"
    expected = filled(root, make, snapshot=snapshot)
    sizes = {path: path.stat().st_size for path in sorted((root / "log").iterdir())}
    generator = random.Random(0)
    for round_number in range(400 if SOAK else 40):
        path = generator.choice(list(sizes))
        offset = generator.randrange(sizes[path])
        bit = generator.randrange(8)
        flip(path, offset, bit)
        with ExperienceBuffer.open(root, CONFIG, read_only=True) as buffer:
            found = contents(buffer)
            assert all(expected[identity] == value for identity, value in found.items())
            padding_or_header = len(found) == len(expected)
            assert len(found) >= len(expected) - 1, f"round {round_number}: one flip lost {len(expected) - len(found)}"
            if not padding_or_header:
                assert buffer.recovery.damages or buffer.recovery.torn_bytes
        flip(path, offset, bit)
    with ExperienceBuffer.open(root, CONFIG, read_only=True) as buffer:
        assert contents(buffer) == expected


def test_a_flip_under_an_open_buffer_is_reported_by_the_read(tmp_path, make):
    with ExperienceBuffer.open(tmp_path / "b", CONFIG) as buffer:
        first, second = make(0), make(1)
        buffer.append(first)
        buffer.append(second)
        address = int(buffer._state.rows.address[0])
        flip(tmp_path / "b" / "log" / "0000000001.log", (address & (1 << 33) - 1) + 60)
        with pytest.raises(BufferDamagedError, match="offset"):
            buffer.get(first.id)
        assert buffer.get(second.id).question == second.question
        assert [e.id for e in buffer.sample(2).experiences] == [second.id]


def test_bit_flips_in_snapshots_are_noticed_and_an_older_one_serves(tmp_path, make):
    root = tmp_path / "b"
    expected = filled(root, make)
    newest, older = sorted((root / "snapshots").iterdir(), reverse=True)
    size = newest.stat().st_size
    for offset in range(0, size, 1 if SOAK else 23):
        flip(newest, offset)
        with ExperienceBuffer.open(root, CONFIG, read_only=True) as buffer:
            assert contents(buffer) == expected
            if buffer.recovery.snapshot_sequence == int(newest.stem):  # a flip in padding
                assert not buffer.recovery.damages
            else:
                assert buffer.recovery.snapshot_sequence == int(older.stem)
                assert "checksum" in buffer.recovery.damages[0]
        flip(newest, offset)


def test_bit_flips_in_the_identity_are_refused(tmp_path, make):
    root = tmp_path / "b"
    filled(root, make, count=2)
    path = root / "buffer.json"
    for offset in range(path.stat().st_size - 1):
        flip(path, offset)
        with pytest.raises(ExperienceBufferError):
            ExperienceBuffer.open(root, CONFIG, read_only=True)
        flip(path, offset)


def test_a_clock_that_jumps_back(tmp_path, make):
    now = [1_000_000.0]
    config = CONFIG.model_copy(update={"retention_days": 1.0})
    with ExperienceBuffer.open(tmp_path / "b", config, clock=lambda: now[0]) as buffer:
        old = make(0, created_s=now[0])
        buffer.append(old)
        now[0] -= 500_000.0
        young = make(1, created_s=now[0])
        assert buffer.append(young) > buffer.get(old.id).sequence
        assert buffer.expire() == 0  # the one from the future is not old
        batch = buffer.sample(2)
        assert np.isfinite(batch.weights).all() and (batch.priorities <= 1.0).all() and len(batch.experiences) == 2
        buffer.update(old.id, confidence=0.25)
        now[0] += 500_000.0
        assert buffer.expire() == 1 and young.id not in buffer


def test_ids_rise_when_the_clock_jumps_back(monkeypatch):
    from components.ttrl.buffer import identity

    moments = iter([5_000_000_000, 4_000_000_000, 3_000_000_000, 6_000_000_000])
    monkeypatch.setattr(identity, "_last", 0)
    monkeypatch.setattr(identity.time, "time_ns", lambda: next(moments))
    ids = [identity.new_id() for _ in range(4)]
    assert ids == sorted(ids) and len(set(ids)) == 4


def test_an_unexpected_error_in_the_background_is_told_and_ends_nothing(tmp_path, make, monkeypatch, caplog):
    config = CONFIG.model_copy(update={"background": True, "snapshot_interval": 5})
    with ExperienceBuffer.open(tmp_path / "b", config) as buffer:
        monkeypatch.setattr(buffer._maintenance, "expire", lambda: 1 // 0)
        buffer._maintenance._next_expiry = 0.0
        for i in range(12):
            buffer.append(make(i))
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not (
            any(record.exc_info for record in caplog.records) and buffer.stats()["maintenance"]["snapshots"]
        ):
            time.sleep(0.02)
        told = buffer.stats()["maintenance"]
        assert told["failures"] and told["snapshots"] and "expire" in told["last_error"]
        assert any(record.exc_info for record in caplog.records)
        monkeypatch.undo()

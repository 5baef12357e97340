"""Group commit of coroutines: everybody together on a slow device, in turns on a fast one; errors reach whom they
concern."""

import asyncio

import pytest

from components.ttrl.buffer import commit as commit_module
from components.ttrl.buffer import turns
from components.ttrl.buffer.commit import Change, GroupCommit

WRITERS = 16
TURNAROUND_S = 0.001


class Clock:
    """Seconds that pass only when told."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


def batches(monkeypatch, commit_s):
    """Sizes of the batches in which 16 coroutines write 30 changes each, one after the other."""
    clock, sizes = Clock(), []
    monkeypatch.setattr(turns, "time", clock)
    monkeypatch.setattr(commit_module, "time", clock)

    def write(batch):
        sizes.append(len(batch))
        clock.now += commit_s
        for change in batch:
            change.result = len(sizes)

    commit = GroupCommit(write, max_batch_bytes=1 << 20)

    async def writer():
        last = 0
        for _ in range(30):
            result = await commit.enqueue(Change())
            assert result > last  # written after the one before
            last = result
            clock.now += TURNAROUND_S / WRITERS

    async def main():
        await asyncio.gather(*(writer() for _ in range(WRITERS)))

    asyncio.run(main())
    commit.close()
    assert sum(sizes) == 30 * WRITERS
    assert commit.latency.count == 30 * WRITERS
    return sizes


def test_on_a_slow_device_all_writers_share_a_flush(monkeypatch):
    assert batches(monkeypatch, commit_s=10 * TURNAROUND_S) == [WRITERS] * 30


def test_on_a_fast_device_two_halves_take_turns(monkeypatch):
    sizes = batches(monkeypatch, commit_s=TURNAROUND_S / 4)
    assert WRITERS // 2 in sizes
    assert max(sizes[len(sizes) // 2 :]) <= WRITERS


def test_an_error_reaches_its_own_writer_and_work_goes_on():
    def write(batch):
        for change in batch:
            if change.size == 13:
                change.error = ValueError("thirteen")
            else:
                change.result = change.size

    class Sized(Change):
        __slots__ = ("size",)

        def __init__(self, size):
            super().__init__()
            self.size = size

    commit = GroupCommit(write, max_batch_bytes=1 << 20)

    async def main():
        return await asyncio.gather(*(commit.enqueue(Sized(n)) for n in range(10, 16)), return_exceptions=True)

    found = asyncio.run(main())
    assert [found[i] for i in (0, 1, 2, 4, 5)] == [10, 11, 12, 14, 15]
    assert isinstance(found[3], ValueError)
    with pytest.raises(ValueError, match="thirteen"):
        commit.submit(Sized(13))
    assert commit.submit(Sized(7)) == 7
    commit.close()


def test_a_cancelled_writer_disturbs_nobody_and_a_second_loop_is_served():
    commit = GroupCommit(lambda batch: [setattr(change, "result", 1) for change in batch], max_batch_bytes=1 << 20)

    async def main():
        doomed = asyncio.ensure_future(commit.enqueue(Change()))
        doomed.cancel()
        assert await commit.enqueue(Change()) == 1
        assert doomed.cancelled()

    asyncio.run(main())
    asyncio.run(main())
    commit.close()


def test_a_batch_ends_at_its_bytes():
    sizes = []

    class Large(Change):
        __slots__ = ()
        size = 600

    commit = GroupCommit(lambda batch: sizes.append(len(batch)), max_batch_bytes=1000)

    async def main():
        await asyncio.gather(*(commit.enqueue(Large()) for _ in range(8)))

    asyncio.run(main())
    commit.close()
    assert max(sizes) == 2 and sum(sizes) == 8

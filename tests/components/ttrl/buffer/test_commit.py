"""Group commit of coroutines: everybody shares a flush, in the loop where commits are brief, by a thread where they may
not be; errors reach whom they concern."""

import asyncio
import threading

import pytest

from components.ttrl.buffer import commit as commit_module
from components.ttrl.buffer.commit import BRIEF_BYTES, BRIEF_S, Change, GroupCommit

WRITERS, EACH = 16, 30
HERE = threading.main_thread()


class Clock:
    """Seconds that pass only when told."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


class Writes:
    """Batches as they are written: how many changes, and by which thread; `seconds` is what one takes."""

    def __init__(self, monkeypatch, seconds, brief=lambda changes, size: True):
        self.clock, self.seconds = Clock(), seconds
        self.sizes, self.threads = [], []
        monkeypatch.setattr(commit_module, "time", self.clock)
        self.commit = GroupCommit(self.write, max_batch_bytes=1 << 20, brief=brief)

    def write(self, batch):
        self.sizes.append(len(batch))
        self.threads.append(threading.current_thread())
        self.clock.now += self.seconds
        for change in batch:
            change.result = len(self.sizes)

    def run(self, make=Change):
        """16 coroutines write 30 changes each, one after the other."""

        async def writer():
            last = 0
            for _ in range(EACH):
                result = await self.commit.enqueue(make())
                assert result > last  # written after the one before
                last = result

        async def main():
            await asyncio.gather(*(writer() for _ in range(WRITERS)))

        asyncio.run(main())
        self.commit.close()
        assert self.sizes == [WRITERS] * EACH
        assert self.commit.latency.count == WRITERS * EACH
        return self


def test_brief_commits_are_written_in_the_loop_once_they_are_known_to_be(monkeypatch):
    threads = Writes(monkeypatch, BRIEF_S / 4).run().threads
    assert threads[0] is not HERE
    assert threads[-1] is HERE


def test_slow_commits_never_block_the_loop(monkeypatch):
    assert HERE not in Writes(monkeypatch, 10 * BRIEF_S).run().threads


def test_what_may_take_long_is_the_threads(monkeypatch):
    assert HERE not in Writes(monkeypatch, 0.0, brief=lambda changes, size: False).run().threads

    class Large(Change):
        __slots__ = ()
        size = BRIEF_BYTES // WRITERS + 1

    assert HERE not in Writes(monkeypatch, 0.0).run(Large).threads


def test_a_stall_sends_the_following_commits_to_the_thread_and_a_fast_device_brings_them_back(monkeypatch):
    writes = Writes(monkeypatch, 0.0)
    calm = writes.write

    def write(batch):
        calm(batch)
        writes.clock.now += 1.5 * commit_module.STALL_S if len(writes.sizes) == 12 else 0.0

    monkeypatch.setattr(writes.commit, "_write", write)
    threads = writes.run().threads
    assert [threads[i] is HERE for i in (11, 12, 13, -1)] == [True, False, False, True]


def test_a_loop_does_not_wait_for_a_log_somebody_else_holds(monkeypatch):
    commit = Writes(monkeypatch, 0.0).commit

    async def main():
        for _ in range(20):
            await commit.enqueue(Change())
        held = threading.Event()

        def hold():
            with commit.io:
                held.set()
                released.wait(10)

        released = threading.Event()
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(10)
        waiting = asyncio.ensure_future(commit.enqueue(Change()))
        for _ in range(5):
            await asyncio.sleep(0.001)
        assert not waiting.done()
        released.set()
        holder.join()
        assert await waiting == 21

    asyncio.run(main())
    commit.close()


def test_what_ends_the_process_ends_no_writer_without_an_answer(monkeypatch):
    writes = Writes(monkeypatch, 0.0)

    def write(batch):
        raise KeyboardInterrupt

    async def main():
        for _ in range(20):
            await writes.commit.enqueue(Change())
        monkeypatch.setattr(writes.commit, "_write", write)
        await writes.commit.enqueue(Change())

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    monkeypatch.setattr(writes.commit, "_write", writes.write)
    assert writes.commit.submit(Change()) > 20
    writes.commit.close()


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

"""Places to wait, turns to work, and room for uploads: counted, refused in words, given back whatever happens."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from components.ttrl.admission import Admission, Refused
from components.ttrl.metrics import Metrics
from components.ttrl.uploads import Room, UploadRefused


def test_every_place_is_given_back() -> None:
    admission = Admission(2, 1000, Metrics())
    for _ in range(2):
        with ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(admission.place())
            with pytest.raises(Refused, match="10 requests are worked on or wait") as refused, admission.place():
                pass
            assert (refused.value.status, refused.value.retry_after_s) == (429, 1.0)


def test_so_many_work_at_once_and_a_failure_gives_its_turn_back() -> None:
    async def scenario() -> int:
        admission = Admission(2, 1000, Metrics())
        at_work = most = 0

        async def request(number: int) -> None:
            nonlocal at_work, most
            async with admission.turn():
                at_work += 1
                most = max(most, at_work)
                await asyncio.sleep(0)
                at_work -= 1
                if number % 2:
                    raise ValueError

        await asyncio.gather(*(request(n) for n in range(8)), return_exceptions=True)
        return most

    assert asyncio.run(scenario()) == 2


def test_room_is_for_all_uploads_together() -> None:
    room = Room(100)
    room.take(60)
    with pytest.raises(UploadRefused, match="hold 60 of 100 bytes") as refused:
        room.take(41)
    assert refused.value.status == 429
    room.take(40)
    room.held_bytes -= 60
    room.take(60)

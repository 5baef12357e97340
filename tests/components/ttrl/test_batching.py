"""The inference thread: fair between requests, the same batches for one alone."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from components.ttrl.batching import Batcher
from components.ttrl.serving_adapters import of_one_adapter


class Thread:
    """A real batcher whose engine is slow and remembers its batches."""

    def __init__(self, seconds: float = 0.01) -> None:
        self.batches: list[list[Any]] = []
        self.seconds = seconds
        self.batcher: Batcher[Any, Any] = Batcher(self.answer, most=4, wait_s=0.05)

    def answer(self, asks: list[Any]) -> list[Any]:
        time.sleep(self.seconds)
        self.batches.append(asks)
        if "bad" in asks:
            raise ValueError("bad")
        return [f"answer to {ask}" for ask in asks]


@pytest.fixture
def thread():
    made = Thread()
    yield made
    made.batcher.close()


def result(future: Future[Any]) -> Any:
    return future.result(30)


def test_a_later_request_waits_for_a_batch_of_a_long_one_and_not_for_all(thread: Thread) -> None:
    found: list[Any] = []
    long = threading.Thread(target=lambda: found.extend(thread.batcher.in_turn(range(120), result)))
    long.start()
    while len(thread.batches) < 2:
        time.sleep(0.001)
    at = len(thread.batches)
    assert result(thread.batcher.submit("predict")) == "answer to predict"
    asked = next(n for n, batch in enumerate(thread.batches) if "predict" in batch)
    assert asked <= at + 2
    long.join()
    assert found == [f"answer to {n}" for n in range(120)]


def test_two_long_requests_share(thread: Thread) -> None:
    both = [
        threading.Thread(target=thread.batcher.in_turn, args=([(who, n) for n in range(40)], result)) for who in "ab"
    ]
    for one in both:
        one.start()
    for one in both:
        one.join()
    order = [ask[0] for batch in thread.batches for ask in batch]
    assert 10 <= order[:40].count("b") <= 30


def test_alone_the_batches_are_those_of_all_at_once(thread: Thread) -> None:
    thread.batcher.in_turn(range(10), result)
    assert thread.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_what_fails_gives_up_the_rest(thread: Thread) -> None:
    with pytest.raises(ValueError, match="bad"):
        thread.batcher.in_turn(["bad", *range(40)], result)
    assert result(thread.batcher.submit("next")) == "answer to next"
    assert sum(map(len, thread.batches)) == 5


def test_a_timeline_is_of_one_adapter_however_often_it_changes_meanwhile() -> None:
    serving, made = iter("aabcccc"), SimpleNamespace
    outcomes = of_one_adapter([0, 1, 2], lambda asks: [made(n=n, adapter_digest=next(serving)) for n in asks])
    assert [(one.n, one.adapter_digest) for one in outcomes] == [(0, "c"), (1, "c"), (2, "c")]

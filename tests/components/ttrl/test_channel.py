"""Framed messages between processes."""

import os
import struct
import threading
import time

import numpy as np
import pytest

from components.ttrl.channel import Channel, ChannelClosed


@pytest.fixture
def pair():
    (r1, w1), (r2, w2) = os.pipe(), os.pipe()
    files = [open(r1, "rb", 0), open(w2, "wb", 0), open(r2, "rb", 0), open(w1, "wb", 0)]  # noqa: SIM115
    yield Channel(files[0], files[1]), Channel(files[2], files[3]), files
    for file in files:
        file.close()


def test_large_messages_arrive_whole(pair):
    here, there, _ = pair
    blob = np.random.default_rng(0).bytes(3_000_000)
    sender = threading.Thread(target=here.send, args=({"type": "batch", "data": blob, "n": [1, None, "ü"]},))
    sender.start()
    message = there.receive(timeout_s=10)
    sender.join()
    assert message == {"type": "batch", "data": blob, "n": [1, None, "ü"]}


def test_silence_is_a_timeout(pair):
    here, _, _ = pair
    with pytest.raises(TimeoutError):
        here.receive(timeout_s=0.05)


def test_an_ended_peer_is_told(pair):
    here, _, files = pair
    files[3].write(struct.pack("<I", 100) + b"half")
    files[3].close()
    with pytest.raises(ChannelClosed):
        here.receive(timeout_s=1)
    files[2].close()
    with pytest.raises(ChannelClosed):
        here.send({"type": "x"})


def test_an_absurd_length_is_refused(pair):
    here, _, files = pair
    files[3].write(b"\xff\xff\xff\xff")
    with pytest.raises(ChannelClosed, match="no message"):
        here.receive(timeout_s=1)


def test_a_peer_that_does_not_read_is_a_timeout(pair):
    """A stopped worker: the pipe is full, and what is sent must not wait for ever."""
    here, _, _ = pair
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="does not read"):
        here.send({"data": bytes(3_000_000)}, timeout_s=0.3)
    assert time.monotonic() - started < 5


def test_a_peer_that_trickles_is_a_timeout(pair):
    """Bytes that keep coming do not move the limit."""
    here, _, files = pair
    files[3].write(struct.pack("<I", 10_000))
    done = threading.Event()

    def trickle():
        while not done.wait(0.005):
            files[3].write(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        with pytest.raises(TimeoutError, match="bytes came"):
            here.receive(timeout_s=0.3)
    finally:
        done.set()
        thread.join()

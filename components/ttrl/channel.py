"""Messages between the serving process and its update worker: length-framed msgpack over a pair of pipes.

Frame: 4 bytes little-endian length, then one msgpack map. No pickle: what the worker sends can at worst be a wrong
value, never code. Guarantee: a message arrives whole or `ChannelClosed` is raised; there is no resynchronisation, a
broken channel means a new worker.
"""

from __future__ import annotations

import select
import struct
import time
from io import RawIOBase
from typing import Any

import msgpack

LIMIT = 2**30
LENGTH = struct.Struct("<I")
PIECE = 1 << 20
Message = dict[str, Any]


class ChannelClosed(Exception):
    """The other side is gone, or sent something that is no message."""


class Channel:
    """One end, over raw (unbuffered) files; not thread-safe: one thread talks."""

    def __init__(self, reader: RawIOBase, writer: RawIOBase) -> None:
        self._reader, self._writer = reader, writer

    def send(self, message: Message, timeout_s: float | None = None) -> None:
        """Send a message, waiting for the other side to read it.

        Raises:
            TimeoutError: the other side did not read all of it within `timeout_s`; the channel is of no use any more.
            ChannelClosed: the other side ended.
        """
        body = msgpack.packb(message, use_bin_type=True)
        deadline = deadline_after(timeout_s)
        try:
            frame = memoryview(LENGTH.pack(len(body)) + body)
            while frame:
                await_ready(self._writer.fileno(), select.POLLOUT, deadline)
                frame = frame[self._writer.write(frame[: select.PIPE_BUF]) or 0 :]  # so much never blocks
        except TimeoutError:
            raise
        except (ValueError, OSError) as error:
            raise ChannelClosed(f"cannot send: {error}") from error

    def receive(self, timeout_s: float | None = None) -> Message:
        """The next message.

        Raises:
            TimeoutError: nothing complete within `timeout_s`.
            ChannelClosed: the other side ended.
        """
        body = receive_frame(self._reader, deadline_after(timeout_s), LIMIT)
        return msgpack.unpackb(body, raw=False, strict_map_key=False)


def receive_frame(reader: RawIOBase, deadline: float | None, limit: int) -> bytes:
    """The next frame's body; a sender that stops or trickles in the midst of it is bounded by the deadline too.

    Raises:
        TimeoutError: not complete at `deadline` (of `time.monotonic`).
        ChannelClosed: the other side ended, or announces more than `limit` bytes.
    """
    (length,) = LENGTH.unpack(_read(reader, LENGTH.size, deadline))
    if length > limit:
        raise ChannelClosed(f"a frame of {length} bytes is no message")
    return _read(reader, length, deadline)


def _read(reader: RawIOBase, size: int, deadline: float | None) -> bytes:
    parts, left = [], size
    while left:
        try:
            await_ready(reader.fileno(), select.POLLIN, deadline)
        except TimeoutError:
            raise TimeoutError(f"no message within the time limit ({size - left} of {size} bytes came)") from None
        piece = reader.read(min(left, PIECE))
        if not piece:
            raise ChannelClosed("the other side ended")
        parts.append(piece)
        left -= len(piece)
    return b"".join(parts)


def await_ready(descriptor: int, event: int, deadline: float | None) -> None:
    """Wait until a pipe can be read or written (or is broken, which the next call on it tells).

    Raises:
        TimeoutError: not before `deadline`.
    """
    poller = select.poll()
    poller.register(descriptor, event)
    left = None if deadline is None else deadline - time.monotonic()
    if (left is not None and left <= 0) or not poller.poll(None if left is None else left * 1000 + 1):
        raise TimeoutError("the other side does not read within the time limit")


def deadline_after(timeout_s: float | None) -> float | None:
    """The instant of `time.monotonic` that is so far away, None for never."""
    return None if timeout_s is None else time.monotonic() + timeout_s

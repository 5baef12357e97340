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
Message = dict[str, Any]


class ChannelClosed(Exception):
    """The other side is gone, or sent something that is no message."""


class Channel:
    """One end, over raw (unbuffered) files; not thread-safe: one thread talks."""

    def __init__(self, reader: RawIOBase, writer: RawIOBase) -> None:
        self._reader, self._writer = reader, writer

    def send(self, message: Message) -> None:
        """Send a message, waiting for the other side to read it."""
        body = msgpack.packb(message, use_bin_type=True)
        try:
            frame = memoryview(struct.pack("<I", len(body)) + body)
            while frame:
                frame = frame[self._writer.write(frame) or 0 :]
        except (BrokenPipeError, ValueError, OSError) as error:
            raise ChannelClosed(f"cannot send: {error}") from error

    def receive(self, timeout_s: float | None = None) -> Message:
        """The next message.

        Raises:
            TimeoutError: nothing complete within `timeout_s`.
            ChannelClosed: the other side ended.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        (length,) = struct.unpack("<I", self._read(4, deadline))
        if length > LIMIT:
            raise ChannelClosed(f"a frame of {length} bytes is no message")
        return msgpack.unpackb(self._read(length, deadline), raw=False, strict_map_key=False)

    def _read(self, size: int, deadline: float | None) -> bytes:
        parts = b""
        while len(parts) < size:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            ready, _, _ = select.select([self._reader], [], [], left)
            if not ready:
                raise TimeoutError(f"no message within the time limit ({len(parts)} of {size} bytes came)")
            piece = self._reader.read(size - len(parts))
            if not piece:
                raise ChannelClosed("the other side ended")
            parts += piece
        return parts

"""Runs a function on untrusted bytes in a child process with limits and a time-out.

Role: decoders of video and images are large C libraries fed by strangers. They run in a child that is forked from a
clean, warm server process (no torch, no model, no keys in it), and whose results come back as JSON and raw arrays in
length-framed messages (channel.py):
nothing the child sends is ever unpickled.

Guarantees: a child that crashes, hangs, eats memory or writes files ends itself alone; the caller gets an `InputError`
that says which. Its process group is killed after the time-out, so no ffmpeg survives it.
Not guaranteed: protection against an exploit that stays within the limits and talks to the network; the container's
policy does that.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from components.shared.runtime.errors import InputError, PixelisError
from components.ttrl.channel import LENGTH, ChannelClosed, receive_frame

Result = tuple[dict[str, Any], list[np.ndarray]]
Target = Callable[[dict[str, Any]], Result]
MAX_RESULT_BYTES = 2**31 - 1
MAX_WRITTEN_BYTES = 1 << 16
"""What a child may write to a file: ffmpeg's own messages, no more."""


def warm_up(modules: Sequence[str]) -> None:
    """Import the decoders' modules once, in the server process every child is forked from."""
    _context().set_forkserver_preload([*modules])


def run(target: Target, request: dict[str, Any], *, timeout_s: float, memory_bytes: int) -> Result:
    """Call `target(request)` in a child.

    Args:
        target: A module-level function that returns (small JSON facts, arrays).
        request: JSON values.
        timeout_s: Wall-clock limit, also the limit on the child's processor time.
        memory_bytes: Limit on the child's address space.

    Raises:
        InputError: the target refused the input (its own message), crashed, ran out of memory or of time.
    """
    context = _context()
    pipe, theirs = context.Pipe(duplex=False)
    ours = io.FileIO(os.dup(pipe.fileno()), "rb")
    pipe.close()
    child = context.Process(target=_child, args=(theirs, target, request, timeout_s, memory_bytes), daemon=True)
    child.start()
    theirs.close()
    deadline = time.monotonic() + timeout_s
    try:
        facts = json.loads(receive_frame(ours, deadline, MAX_RESULT_BYTES))
        if "error" in facts:
            raise InputError(facts["error"], remedy=facts.get("remedy", ""))
        arrays = []
        for shape in facts.pop("arrays"):
            data = receive_frame(ours, deadline, MAX_RESULT_BYTES)
            arrays.append(np.frombuffer(data, np.uint8).reshape(shape))
        return facts, arrays
    except TimeoutError:
        raise InputError(
            f"decoding took longer than {timeout_s:g} s and was stopped, so there is no answer.",
            remedy="Send a shorter or smaller clip; ttrl.decode_timeout_s sets the limit.",
        ) from None
    except (ChannelClosed, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        child.join(1)
        raise InputError(f"the decoder ended without a result ({_ending(child)}), so there is no answer.") from None
    finally:
        _end(child)
        ours.close()


def _context() -> Any:
    return multiprocessing.get_context("forkserver")


def _child(
    connection: Connection, target: Target, request: dict[str, Any], timeout_s: float, memory_bytes: int
) -> None:
    os.setsid()
    seconds = int(timeout_s) + 2
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, seconds * (os.cpu_count() or 1)),
        (resource.RLIMIT_FSIZE, MAX_WRITTEN_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    try:
        facts, arrays = target(request)
    except PixelisError as error:
        _say(connection, {"error": error.message, "remedy": error.remedy})
    except MemoryError:
        _say(connection, {"error": f"decoding needs more than {memory_bytes >> 20} MiB, so it was stopped."})
    except Exception as error:  # the decoder's own errors: their type is told, their text may quote the file
        _say(connection, {"error": f"the input cannot be decoded ({type(error).__name__})."})
    else:
        _say(connection, {**facts, "arrays": [array.shape for array in arrays]})
        for array in arrays:
            _send(connection, np.ascontiguousarray(array, np.uint8).data.cast("B"))


def _say(connection: Connection, facts: dict[str, Any]) -> None:
    _send(connection, memoryview(json.dumps(facts).encode()))


def _send(connection: Connection, data: memoryview) -> None:
    for part in (memoryview(LENGTH.pack(len(data))), data):
        left = part
        while left:
            left = left[os.write(connection.fileno(), left) :]


def _ending(child: BaseProcess) -> str:
    code = child.exitcode
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit status {code}"


def _end(child: BaseProcess) -> None:
    if child.pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    if child.is_alive():
        child.kill()
    child.join()

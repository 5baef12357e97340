"""The decoding child: limits, time-out, crashes."""

import sys
import time
from pathlib import Path

import psutil
import pytest

from components.shared.runtime.errors import InputError
from components.ttrl import sandbox

sys.path.insert(0, str(Path(__file__).parent))
import sandbox_targets as targets

LIMITS = {"timeout_s": 20.0, "memory_bytes": 2 << 30}


def test_results_come_back():
    facts, arrays = sandbox.run(targets.double, {"n": 4}, **LIMITS)
    assert facts == {"n": 8}
    assert arrays[0].shape == (2, 2, 3)
    assert arrays[0].ravel().tolist() == list(range(12))


@pytest.mark.parametrize(
    ("target", "request_", "message"),
    [
        (targets.die, {}, "killed by SIGSEGV"),
        (targets.eat, {"bytes": 3 << 30}, "needs more than 2048 MiB"),
        (targets.refuse, {}, "no thanks"),
    ],
)
def test_failures_are_input_errors(target, request_, message):
    with pytest.raises(InputError, match=message):
        sandbox.run(target, request_, **LIMITS)


def test_nothing_can_be_written(tmp_path):
    with pytest.raises(InputError, match=r"SIGXFSZ|OSError"):
        sandbox.run(targets.write, {"path": str(tmp_path / "file")}, **LIMITS)
    assert (tmp_path / "file").stat().st_size <= 1 << 16


def test_the_decoders_own_words_are_not_passed_on():
    with pytest.raises(InputError, match="RuntimeError") as caught:
        sandbox.run(targets.break_down, {}, **LIMITS)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("target", [targets.hang, targets.spin])
def test_a_hang_is_ended_with_its_children(target):
    started = time.monotonic()
    with pytest.raises(InputError, match="longer than 1 s"):
        sandbox.run(target, {}, timeout_s=1.0, memory_bytes=2 << 30)
    assert time.monotonic() - started < 8
    time.sleep(0.1)
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "321.5"]]


@pytest.mark.parametrize("target", [targets.stop_in_the_middle, targets.trickle])
def test_a_child_that_stops_in_the_midst_of_its_answer_is_ended(target):
    """The first bytes are there at once; the limit holds for the last one."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    started = time.monotonic()
    with pytest.raises(InputError, match="longer than 1 s"):
        sandbox.run(target, {}, timeout_s=1.0, memory_bytes=2 << 30)
    assert time.monotonic() - started < 8
    left = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
    assert not [p for p in left if p.status() == psutil.STATUS_STOPPED]


def test_large_results_come_back_whole():
    facts, arrays = sandbox.run(targets.many, {"num": 3, "bytes": 5_000_000}, **LIMITS)
    assert facts == {"num": 3}
    assert [int(array.sum()) for array in arrays] == [0, 5_000_000, 10_000_000]

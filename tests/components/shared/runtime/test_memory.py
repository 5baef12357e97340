"""What a process holds, and what it gives back."""

from __future__ import annotations

import platform

import numpy as np
import psutil
import pytest

from components.shared.runtime.memory import PeakMemory, give_back

MIB = 2**20


def test_the_peak_is_seen_though_the_memory_is_gone_again() -> None:
    with PeakMemory(0.01, children=False) as memory:
        before = memory.peak_bytes
        held = np.ones(64 * MIB, np.uint8)
        memory.sample()
        del held
    assert memory.peak_bytes - before > 50 * MIB


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library trims otherwise")
def test_free_pages_between_what_is_kept_are_given_back() -> None:
    rows = [np.ones(100_000, np.uint8) for _ in range(2000)]  # small enough to lie in the heap
    rows = rows[::2]
    before = psutil.Process().memory_info().rss
    assert give_back()
    assert before - psutil.Process().memory_info().rss > 60 * MIB
    assert all(row.all() for row in rows)

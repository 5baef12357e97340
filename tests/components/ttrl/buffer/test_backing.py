"""Backing memory ahead changes nothing that is in it, and gives it pages."""

import itertools
import time
from pathlib import Path

import numpy as np
import pytest

from components.ttrl.buffer import backing
from components.ttrl.buffer.vectors import BLOCK_ROWS, VectorBlocks


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * backing.mmap.PAGESIZE


def test_content_stays_and_pages_come():
    array = np.zeros(16 << 20, np.uint8)
    array[::4096] = np.arange(len(array) // 4096) % 251
    before = array.copy()
    backing._populate([array[5:-7]])
    assert (array == before).all()
    fresh = np.zeros(64 << 20, np.uint8)
    held = resident_bytes()
    backing._populate([fresh])
    if resident_bytes() - held < 32 << 20:
        pytest.skip("the kernel does not know MADV_POPULATE_WRITE")
    assert not fresh.any()


def test_rows_written_while_memory_is_backed_are_kept(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "components.ttrl.buffer.vectors.back", lambda arrays: (asked.extend(arrays), backing.back(arrays))
    )
    blocks, generator = VectorBlocks(512), np.random.default_rng(0)
    rows = generator.standard_normal((3 * BLOCK_ROWS // 2, 512)).astype(np.float32)
    for start in range(0, len(rows), 128):
        blocks.reserve(start + 128)
        blocks.write(np.arange(start, start + 128), rows[start : start + 128], first=start)
    time.sleep(0.05)
    assert (blocks.read(np.arange(len(rows))) == rows).all()
    assert sum(map(len, asked)) >= len(rows)  # each row once, none twice
    ranges = sorted((part.ctypes.data, part.ctypes.data + part.nbytes) for part in asked)
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(ranges))

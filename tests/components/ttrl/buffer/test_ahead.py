"""What is prepared before it is needed: zeros behind the records, memory behind the matrix. Neither is ever needed."""

import ctypes
import errno
import time

import numpy as np
import pytest
from simulated_disk import RecordingDisk

from components.ttrl.buffer import BufferConfig, ExperienceBuffer
from components.ttrl.buffer.ahead import populate
from components.ttrl.buffer.disk import Disk
from components.ttrl.buffer.log.writer import AHEAD_BYTES, ZEROS
from components.ttrl.buffer.vectors import BLOCK_ROWS, VectorBlocks

CONFIG = BufferConfig(dimension=4, background=False, min_free_bytes=0)
LIBC = ctypes.CDLL(None)


class NoZeros(Disk):
    """Writes no zeros."""

    def __init__(self, error):
        self.error, self.refused = error, 0

    def write(self, descriptor, data, offset):
        if not bytes(data).strip(b"\0"):
            self.refused += 1
            raise OSError(self.error, "no zeros")
        return super().write(descriptor, data, offset)


def only_segment(root):
    (path,) = (root / "log").glob("*.log")
    return path


def test_commits_lie_in_zeros_written_before(tmp_path, make):
    root = tmp_path / "b"
    disk = RecordingDisk(root)
    buffer = ExperienceBuffer.open(root, CONFIG, disk=disk)
    buffer.append(make(0))
    size = only_segment(root).stat().st_size
    end = buffer._store.writer.active.end
    assert AHEAD_BYTES - len(ZEROS) < size - end <= AHEAD_BYTES and size % len(ZEROS) == 0
    assert not only_segment(root).read_bytes()[end:].strip(b"\0")
    before = len(disk.calls)
    for i in range(20):
        buffer.append(make(i))
    assert [call[0] for call in disk.calls[before:]] == ["write", "sync"] * 20
    assert only_segment(root).stat().st_size == size
    expected = set(buffer.ids())
    buffer.close()
    assert only_segment(root).read_bytes().rstrip(b"\0") != b"" and only_segment(root).stat().st_size < size // 10
    with ExperienceBuffer.open(root, CONFIG) as again:
        assert set(again.ids()) == expected and not again.recovery.damages


def test_zeros_end_with_the_segment(tmp_path, make):
    root = tmp_path / "b"
    config = CONFIG.model_copy(update={"segment_bytes": 8192})
    with ExperienceBuffer.open(root, config) as buffer:
        for i in range(100):
            buffer.append(make(i))
            assert max(path.stat().st_size for path in (root / "log").glob("*.log")) <= 8192
        assert len(list((root / "log").glob("*.log"))) > 1


def test_much_data_is_not_followed_by_zeros(tmp_path, make):
    root = tmp_path / "b"
    with ExperienceBuffer.open(root, CONFIG) as buffer:
        buffer.append(make(0, attributes={"data": bytes(AHEAD_BYTES)}))
        assert only_segment(root).stat().st_size == buffer._store.writer.active.end


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_without_zeros_appends_go_on(tmp_path, make, error):
    root = tmp_path / "b"
    disk = NoZeros(error)
    with ExperienceBuffer.open(root, CONFIG, disk=disk) as buffer:
        kept = [make(i) for i in range(10)]
        for experience in kept:
            buffer.append(experience)
        assert disk.refused == 10 and buffer.stats()["state"] == "ready"
    with ExperienceBuffer.open(root, CONFIG) as again:
        assert set(again.ids()) == {e.id for e in kept} and not again.recovery.damages


def resident(array):
    """Share of an array's pages that memory is behind."""
    start = array.ctypes.data // 4096 * 4096
    pages = (array.ctypes.data + array.nbytes - start + 4095) // 4096
    answer = (ctypes.c_ubyte * pages)()
    assert LIBC.mincore(ctypes.c_void_p(start), ctypes.c_size_t(4096 * pages), answer) == 0
    return np.mean(np.frombuffer(answer, np.uint8) & 1)


def eventually(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_memory_is_backed_and_keeps_what_it_holds():
    array = np.zeros((4096, 1024), np.float32)
    array[::100] = 7.0
    expected = array.copy()
    whole = np.zeros((4096, 1024), np.float32)
    assert resident(whole) < 0.5
    populate(whole)
    populate(array)
    eventually(lambda: resident(whole) == 1.0 and resident(array) == 1.0)
    assert not whole.any() and np.array_equal(array, expected)


def test_a_small_matrix_gets_little_memory():
    vectors = VectorBlocks(1024)
    vectors.reserve(10)
    for slots in range(1, 101):
        vectors.back(slots)
    time.sleep(0.2)
    assert resident(vectors.blocks[0]) < 0.1


def test_the_matrix_is_backed_ahead_of_what_is_stored():
    vectors, dimension = VectorBlocks(768), 768
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((700, dimension)).astype(np.float32)
    stored = 0
    while stored < BLOCK_ROWS + 2000:
        vectors.reserve(stored + len(rows))
        vectors.write(np.arange(stored, stored + len(rows)), rows, first=stored)
        stored += len(rows)
        vectors.back(stored)
        if stored % 7000 == 0:
            block, row = divmod(stored, BLOCK_ROWS)
            eventually(lambda block=block, row=row: resident(vectors.blocks[block][row : row + 1000]) == 1.0)
    assert len(vectors.blocks) == 2
    for start in range(0, stored, 700):
        assert np.array_equal(vectors.read(np.arange(start, start + 700)), rows)

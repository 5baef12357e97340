"""Between memory and a snapshot: making one of a state, and filling a state from one.

Loading verifies the covered bytes of each segment with one checksum; only a segment that fails is walked frame by
frame, and only its damaged records are lost.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from crc32c import crc32c

from components.ttrl.buffer.log.frame import HEADER
from components.ttrl.buffer.log.heads import HEAD, gather
from components.ttrl.buffer.log.reader import SegmentScan, frames
from components.ttrl.buffer.log.segment import ranges, segment_path
from components.ttrl.buffer.record import TEXT, VISUAL
from components.ttrl.buffer.rows import ROW, WHOLE, Names
from components.ttrl.buffer.snapshot import PATCH_ROW, Snapshot
from components.ttrl.buffer.state import State
from components.ttrl.buffer.store import ScanReport
from components.ttrl.buffer.store_file import OFFSET_MASK, SHIFT, FileStore
from components.ttrl.buffer.vectors import hybrid

log = logging.getLogger(__name__)
CHANGED = (PATCH_ROW.names or ())[1:]
"""Columns an update of numbers sets."""
CHUNK_ROWS = 256
"""Records gathered at a time: what is gathered is scaled while it is in the processor's cache."""
JOB_ROWS = 16 * CHUNK_ROWS
THREADS = min(4, os.cpu_count() or 1)
"""Checksums, scaling and first touching memory need no interpreter."""


@dataclass(frozen=True)
class Frozen:
    """What a snapshot is made from, copied while nothing is written; the rest of the work needs no lock."""

    sequence: int
    segments: list[tuple[int, int, int]]
    gone: list[tuple[int, int]]
    names: dict[str, list[str | None]]
    table: np.ndarray
    """ROW of every slot ever used."""
    alive: np.ndarray
    blobs: list[tuple[bytes, int, int]]
    """Digest, address and size of each frame."""
    shadow: list[tuple[int, int]]
    """Slot, and a segment that holds an older version of its record."""


def freeze(state: State, store: FileStore) -> Frozen:
    """Copy the present state. The caller holds the commit lock."""
    rows = state.rows
    return Frozen(
        state.sequence, store.extents(), ranges(store.gone),
        {name: list(table.texts) for name, table in rows.names.items()},
        *rows.copies(),
        [(digest, blob.address, blob.size) for digest, blob in state.frames.blobs.items() if blob.address >= 0],
        [(rows.slot_of[key], number) for key, numbers in state.shadow.items() for number in numbers],
    )  # fmt: skip


def snapshot_of(frozen: Frozen) -> Snapshot:
    """The snapshot of a frozen state."""
    slots = np.flatnonzero(frozen.alive)
    slots = slots[np.argsort(frozen.table["address"][slots])]
    table = frozen.table.view(WHOLE)[slots].view(ROW)
    row_of = np.zeros(max(len(frozen.alive), 1), np.int64)
    row_of[slots] = np.arange(len(slots))
    changed = np.flatnonzero(table["patched"] > 0)
    patch = np.zeros(len(changed), PATCH_ROW)
    patch["row"], patch["patched"] = changed, table["patched"][changed]
    for name in CHANGED[1:]:
        patch[name] = table["record"][name][changed]
    arrays = {
        "address": table["address"],
        "tags": np.stack([table[name] for name in ("source", "subject", "label")], axis=1),
        "patch": patch,
        "blob_digest": np.frombuffer(b"".join([digest for digest, _, _ in frozen.blobs]), np.uint8).reshape(-1, 32),
        "blob_address": np.array([address for _, address, _ in frozen.blobs], np.int64),
        "blob_size": np.array([size for _, _, size in frozen.blobs], np.int64),
        "shadow": np.array([(row_of[slot], number) for slot, number in frozen.shadow], np.int64).reshape(-1, 2),
    }
    return Snapshot(frozen.sequence, frozen.segments, frozen.names, frozen.gone, arrays)


def usable(snapshot: Snapshot, store: FileStore) -> str:
    """Empty, or why the snapshot cannot be used with the segments there are."""
    for number, end, _ in snapshot.segments:
        segment = store.segments.get(number)
        if segment is None:
            return f"segment {number} was rewritten after it"
        if segment.size() < end:
            return f"segment {number} is shorter than the {end} bytes it covers"
    return ""


def load(snapshot: Snapshot, state: State, store: FileStore, report: ScanReport) -> dict[int, int]:
    """Fill an empty state.

    Returns:
        Offset in each segment from which the log is still to be replayed.
    """
    state.rows.names = {name: Names(list(texts)) for name, texts in snapshot.names.items()}
    views = {number: store.segments[number].view() for number, _, _ in snapshot.segments}
    arrays = snapshot.arrays
    with ThreadPoolExecutor(THREADS, "buffer-loading") as pool:
        bad = _bad(snapshot, store, views, report, pool)
        if bad.any():
            arrays = _without(arrays, bad)
        state.vectors.reserve(len(arrays["address"]))
        jobs = [(state, views[number], offsets, row) for number, offsets, row in _pieces(arrays["address"])]
        heads = b"".join(pool.map(_fill, jobs))
    head = np.frombuffer(heads, HEAD)
    _columns(state, head, arrays)
    _frames(state, views, head, arrays)
    for at, number in arrays["shadow"].tolist():
        state.shadow.setdefault(state.rows.key(at), set()).add(number)
    state.sequence = snapshot.sequence
    return {number: end for number, end, _ in snapshot.segments}


def _bad(
    snapshot: Snapshot, store: FileStore, views: dict[int, memoryview], report: ScanReport, pool: ThreadPoolExecutor
) -> np.ndarray:
    """Which records (n,) are damaged; sets each segment's end and checksum, and tells the report."""
    address = snapshot.arrays["address"]
    bad = np.zeros(len(address), bool)
    found = pool.map(lambda segment: crc32c(views[segment[0]][: segment[1]]), snapshot.segments)
    for (number, end, expected), checksum in zip(snapshot.segments, found):
        store.segments[number].end, store.segments[number].crc = end, expected
        if checksum != expected:
            first, last = np.searchsorted(address, [number << SHIFT, number + 1 << SHIFT])
            offsets = (address[first:last] & OFFSET_MASK).tolist()
            bad[first:last] = _damaged(views[number][:end], store, number, offsets, report)
    return bad


def _pieces(address: np.ndarray) -> Iterator[tuple[int, list[int], int]]:
    """Segment, offsets in it and first row of up to JOB_ROWS neighbouring records at a time; `address` rises."""
    numbers = address >> SHIFT
    starts = np.unique(
        np.concatenate([np.flatnonzero(np.diff(numbers, prepend=-1)), np.arange(0, len(address), JOB_ROWS)])
    )
    for first, last in pairwise([*starts.tolist(), len(address)]):
        yield int(numbers[first]), (address[first:last] & OFFSET_MASK).tolist(), first


def _fill(job: tuple[State, memoryview, list[int], int]) -> bytes:
    """Fill the searched vectors of the rows of one piece; returns their joined heads."""
    state, view, offsets, first = job
    return b"".join(
        [_rows(state, view, offsets[at : at + CHUNK_ROWS], first + at) for at in range(0, len(offsets), CHUNK_ROWS)]
    )


def _rows(state: State, view: memoryview, offsets: list[int], first: int) -> bytes:
    """`_fill` for so few that what is gathered stays in the processor's cache."""
    dim, index = state.config.dimension, state.config.index
    found = gather(view, offsets, dim)
    heads, matrix = found["head"].tobytes(), found["vector"]
    cosine = index.metric == "cosine"
    both = np.flatnonzero(np.frombuffer(heads, HEAD)["record"]["flags"] == VISUAL | TEXT)
    if len(both):
        text = gather(view, [offsets[i] for i in both], dim, skip=1)["vector"]
        matrix = matrix.copy()
        matrix[both] = hybrid(matrix[both], text, visual_weight=index.visual_weight, normalise=cosine)
    state.vectors.write(np.arange(first, first + len(offsets)), matrix, first=first, unit=cosine)
    return heads


def _without(arrays: dict[str, np.ndarray], bad: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of a snapshot without the records (n,) that are bad."""
    row_of = np.cumsum(~bad) - 1
    patch, shadow = arrays["patch"][~bad[arrays["patch"]["row"]]].copy(), arrays["shadow"]
    patch["row"] = row_of[patch["row"]]
    shadow = shadow[~bad[shadow[:, 0]]].copy()
    shadow[:, 0] = row_of[shadow[:, 0]]
    kept = {"address": arrays["address"][~bad], "tags": arrays["tags"][~bad], "patch": patch, "shadow": shadow}
    return {**arrays, **kept}


def _damaged(view: memoryview, store: FileStore, number: int, offsets: list[int], report: ScanReport) -> np.ndarray:
    """Which of the frames at the offsets are not good; tells the report."""
    scan = SegmentScan()
    good = {found.address for found in frames(view, 0, scan)}
    if scan.end < len(view):
        scan.note(scan.end, len(view) - scan.end, "no good frame up to the end of what was acknowledged")
    for damage in scan.damages:
        name = segment_path(store.directory, number).name
        report.damages.append(f"{name} offset {damage.offset}: {damage.size_bytes} bytes, {damage.reason}")
        report.dropped_bytes += damage.size_bytes
    return np.array([offset not in good for offset in offsets], bool)


def _columns(state: State, head: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
    rows, total, fixed = state.rows, len(head), head["record"]
    rows.fill(fixed)
    columns = rows.columns
    columns["sequence"][:total] = head["sequence"]
    columns["address"][:total] = arrays["address"]
    columns["origin"][:total] = np.where(fixed["origin"] > 0, fixed["origin"], head["body_crc"])
    length = head["length"].astype(np.int64)
    columns["size"][:total] = HEADER.size + length + -length % 8
    for column, name in enumerate(("source", "subject", "label")):
        columns[name][:total] = arrays["tags"][:, column]
    patch = arrays["patch"]
    for name in CHANGED:
        columns[name][patch["row"]] = patch[name]
    state.record_bytes = int(columns["size"][:total].sum())


def _frames(state: State, views: dict[int, memoryview], head: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
    """Where frames lie, from the snapshot; which records refer to them, from the records."""
    data = arrays["blob_digest"].tobytes()
    for i, (place, size) in enumerate(zip(arrays["blob_address"].tolist(), arrays["blob_size"].tolist())):
        state.frames.put(data[32 * i : 32 * i + 32], place, size)
    fixed, address, dim = head["record"], arrays["address"], state.config.dimension
    for row in np.flatnonzero(fixed["frames"]).tolist():
        vectors = 2 if fixed["flags"][row] == VISUAL | TEXT else 1
        start = (int(address[row]) & OFFSET_MASK) + head.dtype.itemsize + 4 * dim * vectors
        state.frames.refer(row, views[int(address[row]) >> SHIFT][start : start + 32 * int(fixed["frames"][row])])

"""Between memory and a snapshot: taking one of a state, and filling a state from one.

Loading verifies the covered bytes of each segment with one checksum; only a segment that fails is walked frame by
frame, and only its damaged records are lost.
"""

from __future__ import annotations

import logging

import numpy as np
from crc32c import crc32c

from components.ttrl.buffer.log.frame import HEADER
from components.ttrl.buffer.log.heads import gather_heads, gather_vectors
from components.ttrl.buffer.log.reader import SegmentScan, frames
from components.ttrl.buffer.log.segment import ranges, segment_path
from components.ttrl.buffer.record import TEXT, VISUAL
from components.ttrl.buffer.rows import Names
from components.ttrl.buffer.snapshot import PATCH_ROW, Snapshot
from components.ttrl.buffer.state import Blob, State
from components.ttrl.buffer.store import ScanReport
from components.ttrl.buffer.store_file import OFFSET_MASK, SHIFT, FileStore
from components.ttrl.buffer.vectors import BLOCK_ROWS, hybrid

log = logging.getLogger(__name__)
CHANGED = (PATCH_ROW.names or ())[1:]
"""Columns an update of numbers sets."""


def take(state: State, store: FileStore) -> Snapshot:
    """A snapshot of the present state. The caller holds the commit lock; the arrays are copies."""
    rows = state.rows
    slots = rows.live()
    slots = slots[np.argsort(rows.address[slots])]
    row_of = np.zeros(max(rows.used, 1), np.int64)
    row_of[slots] = np.arange(len(slots))
    changed = np.flatnonzero(rows.patched[slots] > 0)
    patch = np.zeros(len(changed), PATCH_ROW)
    patch["row"] = changed
    for name in CHANGED:
        patch[name] = rows.columns[name][slots[changed]]
    blobs = [(digest, blob) for digest, blob in state.blobs.items() if blob.address >= 0]
    shadow = [(row_of[rows.slot_of[key]], n) for key, numbers in state.shadow.items() for n in numbers]
    arrays = {
        "address": rows.address[slots],
        "tags": np.stack([rows.columns[name][slots] for name in ("source", "subject", "label")], axis=1),
        "patch": patch,
        "blob_digest": np.frombuffer(b"".join([digest for digest, _ in blobs]), np.uint8).reshape(-1, 32),
        "blob_address": np.array([blob.address for _, blob in blobs], np.int64),
        "blob_size": np.array([blob.size for _, blob in blobs], np.int64),
        "shadow": np.array(shadow, np.int64).reshape(-1, 2),
    }
    names = {name: list(table.texts) for name, table in rows.names.items()}
    return Snapshot(state.sequence, store.extents(), names, ranges(store.gone), arrays)


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
    arrays = _verified(snapshot, views, store, report)
    address, heads = arrays["address"], []
    numbers = address >> SHIFT
    state.vectors.reserve(len(address))
    for number, view in views.items():
        first, last = np.searchsorted(numbers, [number, number + 1])
        offsets = (address[first:last] & OFFSET_MASK).tolist()
        if offsets:
            heads.append(gather_heads(view, offsets))
            _vectors(state, view, offsets, heads[-1], int(first))
    head = np.concatenate(heads) if heads else gather_heads(memoryview(b""), [])
    _columns(state, head, arrays)
    _blobs(state, arrays)
    _frames(state, views, head, address)
    for row, number in arrays["shadow"].tolist():
        state.shadow.setdefault(state.rows.key(row), set()).add(number)
    state.sequence = snapshot.sequence
    return {number: end for number, end, _ in snapshot.segments}


def _verified(
    snapshot: Snapshot, views: dict[int, memoryview], store: FileStore, report: ScanReport
) -> dict[str, np.ndarray]:
    """The snapshot's arrays without records whose bytes are damaged; sets the segments' ends and checksums."""
    arrays = snapshot.arrays
    numbers = arrays["address"] >> SHIFT
    bad = np.zeros(len(numbers), bool)
    for number, end, checksum in snapshot.segments:
        segment = store.segments[number]
        segment.end, segment.crc = end, checksum
        if crc32c(views[number][:end]) != checksum:
            first, last = np.searchsorted(numbers, [number, number + 1])
            offsets = (arrays["address"][first:last] & OFFSET_MASK).tolist()
            bad[first:last] = _damaged(views[number][:end], store, number, offsets, report)
    if not bad.any():
        return arrays
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


def _vectors(state: State, view: memoryview, offsets: list[int], head: np.ndarray, first: int) -> None:
    """Fill the hybrid embeddings of the rows from `first` on, block by block."""
    dim, index = state.config.dimension, state.config.index
    cosine = index.metric == "cosine"
    done = 0
    while done < len(offsets):
        block, row = divmod(first + done, BLOCK_ROWS)
        count = min(len(offsets) - done, BLOCK_ROWS - row)
        target = state.vectors.blocks[block][row : row + count]
        part = offsets[done : done + count]
        gather_vectors(view, part, dim, 0, target)
        both = np.flatnonzero(head["flags"][done : done + count] == VISUAL | TEXT)
        if len(both):
            text = np.empty((len(both), dim), np.float32)
            gather_vectors(view, [part[i] for i in both], dim, 1, text)
            target[both] = hybrid(target[both], text, visual_weight=index.visual_weight, normalise=cosine)
        if cosine:
            norm = np.sqrt(np.einsum("ij,ij->i", target, target))
            target /= np.where(norm > 0, norm, 1.0)[:, None]
        done += count


def _columns(state: State, head: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
    rows, total = state.rows, len(head)
    rows.fill(head["key"])
    columns = rows.columns
    for name in (
        "sequence",
        "created",
        "updated",
        "override",
        "confidence",
        "reward",
        "retrieved",
        "succeeded",
        "flags",
    ):
        columns[name][:total] = head[name]
    columns["address"][:total] = arrays["address"]
    columns["origin"][:total] = np.where(head["origin"] > 0, head["origin"], head["body_crc"])
    length = head["length"].astype(np.int64)
    columns["size"][:total] = HEADER.size + length + -length % 8
    for column, name in enumerate(("source", "subject", "label")):
        columns[name][:total] = arrays["tags"][:, column]
    patch = arrays["patch"]
    for name in CHANGED:
        columns[name][patch["row"]] = patch[name]
    state.live_bytes += int(columns["size"][:total].sum())


def _blobs(state: State, arrays: dict[str, np.ndarray]) -> None:
    data = arrays["blob_digest"].tobytes()
    for i, (address, size) in enumerate(zip(arrays["blob_address"].tolist(), arrays["blob_size"].tolist())):
        state.blobs[data[32 * i : 32 * i + 32]] = Blob(address, size)
        state.live_bytes += size


def _frames(state: State, views: dict[int, memoryview], head: np.ndarray, address: np.ndarray) -> None:
    """References of records to frames, read from the records."""
    dim = state.config.dimension
    for row in np.flatnonzero(head["frames"]).tolist():
        vectors = 2 if head["flags"][row] == VISUAL | TEXT else 1
        start = (int(address[row]) & OFFSET_MASK) + head.dtype.itemsize + 4 * dim * vectors
        state.take_frames(row, views[int(address[row]) >> SHIFT][start : start + 32 * int(head["frames"][row])])

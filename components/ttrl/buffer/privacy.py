"""Erasure and retention: records leave memory and the log at once, and their bytes leave the directory before the
call ends.

What is rewritten: every segment that holds any version, patch, removal or frame of the erased, of records removed or
evicted before that fall under the same words, or bytes that are damaged (whose they were cannot be told); all
snapshots; the index; `damaged/` is deleted. Names (source, subject, label) nobody uses any more are forgotten. What an
erasure cannot reach: the device's free blocks, file-system journals, backups, and exports made before.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from components.ttrl.buffer.log.frame import Kind
from components.ttrl.buffer.log.reader import SegmentScan, frames
from components.ttrl.buffer.maintenance import Maintenance, grouped
from components.ttrl.buffer.record import Experience, decode
from components.ttrl.buffer.rows import Rows
from components.ttrl.buffer.state import State
from components.ttrl.buffer.store_file import SHIFT, FileStore


def chosen_keys(rows: Rows, *, ids: Sequence[bytes], sources: Sequence[str], subjects: Sequence[str]) -> list[bytes]:
    """Live keys named by id, source or subject."""
    live = rows.live()
    keep = np.zeros(len(live), bool)
    for column, texts in (("source", sources), ("subject", subjects)):
        codes = [code for code in map(rows.names[column].find, texts) if code >= 0]
        keep |= np.isin(rows.columns[column][live], codes)
    keys = [rows.key(slot) for slot in live[keep]]
    return list(dict.fromkeys([*keys, *(key for key in ids if key in rows.slot_of)]))


def buried_keys(store: FileStore, state: State, doomed: Callable[[Experience], bool]) -> set[bytes]:
    """Keys of versions that are not in force any more, but still in the log, and that `doomed` names."""
    found = set()
    for number, segment in sorted(store.segments.items()):
        for item in frames(segment.view()[: segment.end], number << SHIFT, SegmentScan()):
            if item.kind == Kind.EXPERIENCE:
                with state.mutex:  # for a moment: reads go on
                    live = state.is_live(item)
                if not live and doomed(decode(item.body, item.sequence)):
                    found.add(bytes(item.body[:16]))
    return found


def segments_holding(store: FileStore, state: State, keys: set[bytes]) -> list[int]:
    """Segments with anything about keys (live or long removed), with frames nobody refers to any more, or damaged."""
    found = []
    for number in sorted(store.segments):
        segment, scan = store.segments[number], SegmentScan()
        for item in frames(segment.view()[: segment.end], 0, scan):
            if item.kind == Kind.BLOB:
                hit = not state.frames.has(bytes(item.body[:32]))
            else:
                hit = item.kind != Kind.SEGMENT and bytes(item.body[:16]) in keys
            if hit:
                found.append(number)
                break
        else:
            if scan.damages or scan.end < segment.end:
                found.append(number)
    return found


def overwrite(
    maintenance: Maintenance, directory: Path, keys: set[bytes], doomed: Callable[[Experience], bool] | None = None
) -> None:  # fmt: skip
    """Rewrite all that holds bytes of removed keys, or of what was removed before and `doomed` names.

    Raises:
        OSError: not everything is rewritten yet; the records are removed, and calling again finishes the work.
    """
    with maintenance.busy:
        store, state = maintenance.store, maintenance.state
        with maintenance.mutex:
            state.forget_names()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory / "damaged")
        if isinstance(store, FileStore):
            with maintenance.journal.commit.io:
                store.seal()
            if doomed is not None:
                keys = keys | buried_keys(store, state, doomed)
            # twice: with the records gone everywhere, the entries of their removals can go too
            for _ in range(2):
                for group in grouped(segments_holding(store, state, keys), store):
                    maintenance.compact(group, paced=False)
            maintenance.snapshot(only=True)
        else:
            maintenance.compact_all()

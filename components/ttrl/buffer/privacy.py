"""Erasure and retention: records leave memory and the log at once, and their bytes leave the directory before the
call ends.

What is rewritten: every segment that holds any version, patch, removal or frame of the erased; all snapshots; the
index; `damaged/` is emptied. Names (source, subject, label) nobody uses any more are forgotten. What an erasure
cannot reach: the device's free blocks, file-system journals, backups, and exports made before.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from components.ttrl.buffer.log.frame import Kind
from components.ttrl.buffer.log.reader import SegmentScan, frames
from components.ttrl.buffer.maintenance import Maintenance, grouped
from components.ttrl.buffer.rows import Rows
from components.ttrl.buffer.state import State
from components.ttrl.buffer.store_file import FileStore


def chosen_keys(rows: Rows, *, ids: Sequence[bytes], sources: Sequence[str], subjects: Sequence[str]) -> list[bytes]:
    """Live keys named by id, source or subject."""
    live = rows.live()
    keep = np.zeros(len(live), bool)
    for column, texts in (("source", sources), ("subject", subjects)):
        codes = [code for code in map(rows.names[column].find, texts) if code >= 0]
        keep |= np.isin(rows.columns[column][live], codes)
    keys = [rows.key(slot) for slot in live[keep]]
    return list(dict.fromkeys([*keys, *(key for key in ids if key in rows.slot_of)]))


def segments_holding(store: FileStore, state: State, keys: set[bytes]) -> list[int]:
    """Segments with anything about keys (live or long removed), or with frames nobody refers to any more."""
    found = []
    for number in sorted(store.segments):
        segment = store.segments[number]
        for item in frames(segment.view()[: segment.end], 0, SegmentScan()):
            if item.kind == Kind.BLOB:
                hit = not state.frames.has(bytes(item.body[:32]))
            else:
                hit = item.kind != Kind.SEGMENT and bytes(item.body[:16]) in keys
            if hit:
                found.append(number)
                break
    return found


def overwrite(maintenance: Maintenance, directory: Path, keys: set[bytes]) -> None:
    """Rewrite all that holds bytes of removed keys.

    Raises:
        OSError: not everything is rewritten yet; the records are removed, and calling again finishes the work.
    """
    with maintenance.busy:
        store, state = maintenance.store, maintenance.state
        with maintenance.mutex:
            state.forget_names()
        shutil.rmtree(directory / "damaged", ignore_errors=True)
        if isinstance(store, FileStore):
            with maintenance.journal.commit.io:
                store.seal()
            # twice: with the records gone everywhere, the entries of their removals can go too
            for _ in range(2):
                for group in grouped(segments_holding(store, state, keys), store):
                    maintenance.compact(group, paced=False)
            maintenance.snapshot(only=True)
        else:
            maintenance.compact_all()

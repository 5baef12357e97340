"""Export and import: one file that any buffer of the same dimension can take in, checksummed frame by frame.

The file is a log segment (format: `components.ttrl.buffer.log`) that holds each live frame and experience once, with
its numbers as they stand. It holds what the records hold: treat it as such; an erasure does not reach it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from components.ttrl.buffer import layout
from components.ttrl.buffer.buffer import ExperienceBuffer
from components.ttrl.buffer.config import BufferConfig
from components.ttrl.buffer.disk import Disk, write_all
from components.ttrl.buffer.errors import BufferDamagedError, BufferFormatError, RecordNotFoundError
from components.ttrl.buffer.log.frame import Entry, Kind, encode, entry
from components.ttrl.buffer.log.reader import SegmentScan, frames
from components.ttrl.buffer.log.segment import Segment, opening_entry
from components.ttrl.buffer.record import FIXED, decode
from components.ttrl.buffer.record import encode as encode_record
from components.ttrl.buffer.tools.opening import config_of, refuse_lost, view


def export_buffer(directory: Path, target: Path) -> int:
    """Write all live records into a file that must not exist yet; returns how many.

    Raises:
        BufferFormatError: not a buffer, or the file is there.
        BufferDamagedError: some records cannot be read, or opening left some out; the others are in the file.
    """
    if target.exists():
        raise BufferFormatError(f"{target} is there already: nothing was exported.", remedy="Name another file.")
    disk, count, lost = Disk(), 0, list[str]()
    scratch = target.with_name(target.name + ".tmp")
    with view(directory) as buffer:
        scratch.unlink(missing_ok=True)
        descriptor = disk.create(scratch)
        try:
            offset = 0
            for item, sequence in _entries(buffer, layout.read(directory / layout.NAME)["id"], lost):
                data = b"".join(encode(item, sequence))
                write_all(disk, descriptor, data, offset)
                offset += len(data)
                count += item.kind == Kind.EXPERIENCE
            disk.sync(descriptor)
            disk.rename(scratch, target)
        finally:
            disk.close(descriptor)
            scratch.unlink(missing_ok=True)
        disk.sync_directory(target.parent)
        refuse_lost(lost, f"{count} records are in {target}", buffer.recovery.losses)
    return count


def _entries(buffer: ExperienceBuffer, identity: str, lost: list[str]) -> Iterator[tuple[Entry, int]]:
    yield opening_entry(identity, set()), 0
    written: set[str] = set()
    for record in buffer.ids():
        try:
            experience = buffer.get(record)
            images = {digest: buffer.frame(digest) for digest in experience.frames if digest not in written}
        except (BufferDamagedError, RecordNotFoundError) as error:
            lost.append(f"{record}: {error}")
            continue
        for digest, image in images.items():
            written.add(digest)
            yield entry(Kind.BLOB, bytes.fromhex(digest) + image), experience.sequence
        yield entry(Kind.EXPERIENCE, encode_record(experience, buffer.config.dimension)), experience.sequence


def import_buffer(directory: Path, source: Path, *, config: BufferConfig | None = None) -> int:
    """Append what a file holds to a buffer (made if missing); returns how many records came in.

    A record that is there already is left as it is.

    Raises:
        BufferFormatError: no experience in the file, or another dimension.
        BufferDamagedError: some of the file cannot be read; the rest is in.
    """
    known = (directory / layout.NAME).exists()
    if known:
        own = config_of(directory, config)
    elif directory.exists():
        layout.refuse_foreign(directory)
    segment = Segment(1, os.open(source, os.O_RDONLY | os.O_CLOEXEC))
    contents, scan = segment.view(), SegmentScan()
    found = list(frames(contents, 0, scan))
    first = next((item for item in found if item.kind == Kind.EXPERIENCE), None)
    if first is None:
        raise BufferFormatError(f"{source} holds no experience: nothing was imported.")
    dimension = FIXED.unpack_from(first.body)[9]
    if known:
        chosen = own
    else:
        chosen = (config or BufferConfig()).model_copy(update={"dimension": dimension, "background": False})
    if chosen.dimension != dimension:
        raise BufferFormatError(f"{source} holds embeddings of {dimension}, {directory} of {chosen.dimension}.")
    blobs = {bytes(item.body[:32]).hex(): item.body for item in found if item.kind == Kind.BLOB}
    count = 0
    with ExperienceBuffer.open(directory, chosen) as buffer:
        for item in found:
            if item.kind == Kind.EXPERIENCE:
                experience = decode(item.body, item.sequence)
                if experience.id not in buffer:
                    images = [bytes(blobs[digest][32:]) for digest in experience.frames if digest in blobs]
                    names = () if len(images) == len(experience.frames) else experience.frames
                    buffer.append(replace(experience, frames=names), images if not names else [])
                    count += 1
    if scan.damages or scan.end < len(contents):
        lost = sum(damage.size_bytes for damage in scan.damages) + len(contents) - scan.end
        raise BufferDamagedError(f"{source}: {lost} bytes could not be read; {count} records came in.")
    return count

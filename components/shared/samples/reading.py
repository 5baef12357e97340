"""Reading shards: one after the other (`read_samples`), or single samples by their place (`locate_samples`).

Sequential reading takes any tar archive in WebDataset's convention; reading by place relies on what `ShardWriter`
guarantees (USTAR headers without extensions) and refuses anything else.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Container, Iterator
from pathlib import Path

from components.shared.runtime.errors import ArtifactError
from components.shared.samples.shards import BLOCK

NAME_END, SIZE_AT, SUM_AT, KIND_AT, MAGIC_AT = 100, slice(124, 136), slice(148, 156), slice(156, 157), slice(257, 262)
"""Fields of a USTAR header."""
REGULAR = b"0"


def read_samples(path: Path, only: Container[str] | None = None) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Stream one shard: (key, members by suffix), in the order of writing; of the suffixes in `only` where it is given.

    Raises:
        ArtifactError: the shard is missing, truncated or no archive; names it.
    """
    key = ""
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(path, mode="r:") as archive:
            for info in archive:
                name, _, suffix = info.name.partition(".")
                if name != key and members:
                    yield key, members
                    members = {}
                key = name
                if only is not None and suffix not in only:
                    archive.members = []  # type: ignore[attr-defined]
                    continue
                file = archive.extractfile(info)
                data = file.read() if file else b""
                if len(data) != info.size:
                    raise tarfile.ReadError(f"{info.name} ends early")
                members[suffix] = data
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
    except FileNotFoundError:
        raise missing(path) from None
    except (tarfile.TarError, EOFError) as error:
        raise damaged(path, f"{error}; samples after {key or 'its start'} are lost") from error
    if members:
        yield key, members


def locate_samples(path: Path) -> list[int]:
    """Where each sample of a shard begins, and where the last one ends; reads headers only.

    Raises:
        ArtifactError: the shard is missing, truncated or was not written by `ShardWriter`; names it.
    """
    starts: list[int] = []
    key = None
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise missing(path) from None
    try:
        at = 0
        while (header := os.pread(descriptor, BLOCK, at)).strip(b"\0"):
            name, size = read_header(header, path)
            if not is_whole(header):
                raise damaged(path, f"the header of {name} is broken")
            if name.partition(".")[0] != key:
                key = name.partition(".")[0]
                starts.append(at)
            at += BLOCK + size + -size % BLOCK
        if len(header) < BLOCK:
            raise damaged(path, f"it ends at {at} bytes without an end mark")
    finally:
        os.close(descriptor)
    return [*starts, at]


def parse_sample(data: bytes, path: Path) -> tuple[str, dict[str, bytes]]:
    """(key, members by suffix) of the bytes that `pack_sample` made and `locate_samples` found.

    Raises:
        ArtifactError: the bytes end early or are no members of a shard.
    """
    members: dict[str, bytes] = {}
    at, key = 0, ""
    while at < len(data):
        name, size = read_header(data[at : at + BLOCK], path)
        key, _, suffix = name.partition(".")
        members[suffix] = data[at + BLOCK : at + BLOCK + size]
        if len(members[suffix]) != size:
            raise damaged(path, f"{name} ends early")
        at += BLOCK + size + -size % BLOCK
    return key, members


def read_header(header: bytes, path: Path) -> tuple[str, int]:
    """(member name, size) of one header as `pack_sample` writes it."""
    try:
        info = header[:NAME_END].rstrip(b"\0").decode("ascii"), int(header[SIZE_AT].rstrip(b"\0 "), 8)
    except ValueError:
        raise damaged(path, "a member's header is broken") from None
    if header[KIND_AT] != REGULAR or header[MAGIC_AT] != b"ustar" or not info[0]:
        raise damaged(path, "a member is no plain file of a USTAR archive")
    return info


def is_whole(header: bytes) -> bool:
    """Whether a header's checksum (its bytes' sum, the checksum's own field taken as spaces) is right."""
    try:
        return int(header[SUM_AT].rstrip(b"\0 "), 8) == sum(header) - sum(header[SUM_AT]) + 8 * ord(" ")
    except ValueError:
        return False


def missing(path: Path) -> ArtifactError:
    """The error for a shard that is not there."""
    return ArtifactError(f"shard {path} is missing.", remedy="Run the step that writes it again.")


def damaged(path: Path, reason: str) -> ArtifactError:
    """The error for a shard whose bytes are not as they were written."""
    return ArtifactError(f"shard {path} cannot be read ({reason}).", remedy="Run the step that writes it again.")

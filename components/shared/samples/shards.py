"""WebDataset shards: the container that clips and trajectories travel in (`reading.py` reads them).

A shard is a USTAR archive in WebDataset's convention: members of one sample stand together and share the name up to
the first dot (`K.json`, `K.00.jpg`). Written with the standard library's tarfile rather than webdataset's ShardWriter,
because importing webdataset imports torch (a second and 200 MB in every worker) and its writer passes the size limit
before it looks; that webdataset itself reads these shards is a test.

Guarantees: bytes depend on keys and members only (no time, user or machine in a header); a shard never exceeds the
limit unless one sample alone does; the digest is computed while writing, so a record always describes its shard.
Not guaranteed: a shard is readable before `close` (its step's output is staged and renamed whole).
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from pydantic import Field

from components.shared.runtime.config import Section
from components.shared.runtime.errors import ArtifactError

MAX_SHARD_BYTES = 200_000_000
BLOCK = 512
END = bytes(2 * BLOCK)
KEY = re.compile(r"[A-Za-z0-9_+=@-]{1,80}")


class ShardRecord(Section):
    """What the index says about one shard."""

    name: str
    """File name inside the artifact."""
    count: int = Field(ge=0)
    """Samples in it."""
    bytes: int = Field(ge=0)
    sha256: str


def pack_sample(key: str, members: Mapping[str, bytes]) -> bytes:
    """One sample as the bytes it is in a shard: a header and the padded content of each member.

    Raises:
        ArtifactError: the key is no plain name (a dot would end it early on reading).
    """
    if not KEY.fullmatch(key):
        raise ArtifactError(
            f"sample key {key!r} cannot name shard members (letters, digits and _+=@- only, at most 80)."
        )
    pieces = []
    for suffix, data in members.items():
        info = tarfile.TarInfo(f"{key}.{suffix}")
        info.size, info.mode = len(data), 0o444
        pieces += [info.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % BLOCK)]
    return b"".join(pieces)


class ShardWriter:
    """Writes samples into `<prefix>-NNNNNN.tar` files of bounded size.

    Args:
        root: Existing directory of the artifact.
        prefix: Usually the split's name.
        max_bytes: Size no shard exceeds (except by a single larger sample).
        first: Number of the first shard.
    """

    def __init__(self, root: Path, prefix: str, *, max_bytes: int = MAX_SHARD_BYTES, first: int = 0) -> None:
        self.root, self.prefix, self.max_bytes, self.number = root, prefix, max_bytes, first
        self.records: list[ShardRecord] = []
        self._file: IO[bytes] | None = None
        self._seen: set[str] = set()
        self._digest, self._size, self._count = hashlib.sha256(), 0, 0

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample; members are written in the mapping's order.

        Raises:
            ArtifactError: the key is used twice, or is no plain name (a dot would end it early on reading).
        """
        self.write_packed(key, pack_sample(key, members))

    def write_packed(self, key: str, packed: bytes) -> None:
        """Append a sample that `pack_sample` made, perhaps in another process.

        Raises:
            ArtifactError: the key is used twice.
        """
        if key in self._seen:
            raise ArtifactError(f"sample {key!r} is written twice to {self.prefix} shards; readers would mix the two.")
        self._seen.add(key)
        if self._file is not None and self._size + len(packed) + len(END) > self.max_bytes:
            self._finish()
        if self._file is None:
            self._file = open(self.root / f"{self.prefix}-{self.number:06d}.tar", "wb")  # noqa: SIM115
            self._digest, self._size, self._count = hashlib.sha256(), 0, 0
        self._put(packed)
        self._count += 1

    def _put(self, data: bytes) -> None:
        assert self._file is not None
        self._digest.update(data)
        self._size += len(data)
        self._file.write(data)

    def _finish(self) -> None:
        if self._file is None:
            return
        self._put(END)
        self._file.close()
        name = f"{self.prefix}-{self.number:06d}.tar"
        self.records.append(
            ShardRecord(name=name, count=self._count, bytes=self._size, sha256=self._digest.hexdigest())
        )
        self._file = None
        self.number += 1

    def close(self) -> tuple[ShardRecord, ...]:
        """Finish the last shard and return the records of all."""
        self._finish()
        return tuple(self.records)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

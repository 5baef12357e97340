"""Frames in memory: where each stored image lies, and which live records refer to it.

A frame whose last reference goes is forgotten; its bytes go with a later compaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from components.ttrl.buffer.log.frame import Found, frame_size

ABSENT = -1
"""Address of a frame that is referred to and not there."""


@dataclass(slots=True)
class Blob:
    """A stored frame."""

    address: int
    size: int
    references: int = 0


class Frames:
    """Blobs by digest, digests by slot. The caller holds the state lock."""

    def __init__(self) -> None:
        self.blobs: dict[bytes, Blob] = {}
        self.of_slot: dict[int, tuple[bytes, ...]] = {}
        self.bytes = 0
        """Of all blobs."""

    def __len__(self) -> int:
        return len(self.blobs)

    def put(self, digest: bytes, address: int, size: int) -> None:
        """A blob has been stored."""
        blob = self.blobs.setdefault(digest, Blob(ABSENT, 0))
        self.bytes += size - blob.size
        blob.address, blob.size = address, size

    def apply(self, item: Found) -> None:
        """`put` for an entry."""
        self.put(bytes(item.body[:32]), item.address, frame_size(len(item.body)))

    def refer(self, slot: int, digests: bytes | memoryview) -> None:
        """The record in a slot refers to these frames (joined digests), and to none of those it had before."""
        before = self.of_slot.pop(slot, ())
        if len(digests):
            names = tuple([bytes(digests[i : i + 32]) for i in range(0, len(digests), 32)])
            self.of_slot[slot] = names
            for name in names:
                self.blobs.setdefault(name, Blob(ABSENT, 0)).references += 1
        self._drop(before)

    def release(self, slot: int) -> None:
        """The record in a slot is gone."""
        self._drop(self.of_slot.pop(slot, ()))

    def _drop(self, names: Iterable[bytes]) -> None:
        for name in names:
            blob = self.blobs[name]
            blob.references -= 1
            if blob.references == 0:
                del self.blobs[name]
                self.bytes -= blob.size

    def has(self, digest: bytes) -> bool:
        """Whether a frame is stored and in use."""
        blob = self.blobs.get(digest)
        return blob is not None and blob.address != ABSENT

    def settle(self) -> int:
        """After recovery: drop frames nobody refers to; returns how many are referred to and missing."""
        for digest in [d for d, blob in self.blobs.items() if blob.references == 0]:
            self.bytes -= self.blobs.pop(digest).size
        return sum(blob.address == ABSENT for blob in self.blobs.values())

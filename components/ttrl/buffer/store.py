"""What the buffer asks of the place where bytes are kept: entries in, addresses out, durable on return."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from components.ttrl.buffer.log.frame import Entry, Found


@dataclass
class ScanReport:
    """What reading a store found besides good entries."""

    entries: int = 0
    damages: list[str] = field(default_factory=list)
    """One line a damaged place: where, how many bytes, why."""
    remade: list[str] = field(default_factory=list)
    """One line a damaged file that only repeats what others hold: nothing is lost with it."""
    dropped_bytes: int = 0
    torn_bytes: int = 0
    """Bytes of an unacknowledged commit a crash cut short: not damage."""


class Store(Protocol):
    """A durable place for entries. `append` has one caller at a time; `read` may be called by many threads."""

    def append(self, entries: Sequence[Entry], sequences: Sequence[int]) -> list[int]:
        """Make entries durable; returns their addresses. Raises OSError with nothing stored."""

    def read(self, address: int) -> Found:
        """One entry. Raises BufferDamagedError when its bytes do not match."""

    def scan(self, report: ScanReport, covered: Mapping[int, int] | None = None) -> Iterator[Found]:
        """Every good entry; `covered` is what a snapshot has made unnecessary to read."""

    def bytes_on_disk(self) -> int:
        """Bytes the store takes, room not used yet included."""

    def close(self) -> None:
        """Release everything; the store is complete on disk."""

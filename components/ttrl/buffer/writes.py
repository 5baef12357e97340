"""A change on its way into the log: what it becomes is decided when its batch is written, against memory as it is
then."""

from __future__ import annotations

from collections.abc import Callable

from components.ttrl.buffer.commit import Change
from components.ttrl.buffer.log.frame import Entry


class Pending:
    """What a batch adds before it is applied, so that its later changes see the earlier ones."""

    def __init__(self) -> None:
        self.appended: set[bytes] = set()
        self.blobs: set[bytes] = set()
        self.changed: set[bytes] = set()
        """Live keys the batch removes or stores anew."""
        self.removed: set[bytes] = set()
        self.released: set[bytes] = set()
        """Frames of removed or replaced records: perhaps gone once the batch is applied."""
        self.bytes = 0


class Again(Exception):
    """The batch has changed this record already: the change belongs into the next batch."""


class Write(Change):
    """A change that becomes log entries."""

    def build(self, pending: Pending) -> list[Entry] | int:
        """The entries, or the sequence number of what is stored already.

        Raises:
            Again: not in this batch.
        """
        raise NotImplementedError


class Built(Write):
    """A write given as a function."""

    def __init__(self, build: Callable[[Pending], list[Entry] | int], size: int) -> None:
        self._build, self.size = build, size

    def build(self, pending: Pending) -> list[Entry] | int:
        """See `Write.build`."""
        return self._build(pending)

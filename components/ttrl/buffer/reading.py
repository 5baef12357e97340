"""Reading records and frames back, while compaction may move them."""

from __future__ import annotations

import threading
from pathlib import Path

from components.ttrl.buffer.changes import Changes, not_found
from components.ttrl.buffer.errors import BufferDamagedError, RecordNotFoundError
from components.ttrl.buffer.record import Experience
from components.ttrl.buffer.state import State
from components.ttrl.buffer.store import Store

TRIES = 8


class Reader:
    """Reads without keeping writers out: an address that changed between the look-up and the read is looked up again.

    Args:
        directory: The buffer's, for messages.
        state: Memory.
        store: Where bytes are.
        changes: Decodes a record with the numbers changed since.
        mutex: The state lock.
    """

    def __init__(self, directory: Path, state: State, store: Store, changes: Changes, mutex: threading.RLock) -> None:
        self.directory, self.state, self.store, self.changes, self.mutex = directory, state, store, changes, mutex

    def experience(self, key: bytes) -> Experience:
        """The live record of a key, as it stands now.

        Raises:
            RecordNotFoundError: none.
            BufferDamagedError: its bytes do not match their checksum.
        """
        state = self.state
        for _ in range(TRIES):
            with self.mutex:
                rows = state.rows
                slot = rows.slot_of.get(key)
                if slot is None:
                    raise not_found(key)
                address = int(rows.address[slot])
            try:
                found = self.store.read(address)
            except BufferDamagedError:
                with self.mutex:
                    rows = state.rows
                    if rows.slot_of.get(key) == slot and rows.address[slot] == address:
                        raise
                continue
            with self.mutex:
                rows = state.rows
                if rows.slot_of.get(key) == slot and rows.sequence[slot] == found.sequence:
                    return self.changes.decoded(found, slot)
        raise not_found(key)

    def frame(self, digest: str) -> bytes:
        """A stored frame's bytes.

        Raises:
            RecordNotFoundError: no live experience has it.
            BufferDamagedError: it is lost.
        """
        name = bytes.fromhex(digest)
        for last in range(TRIES):
            with self.mutex:
                blob = self.state.frames.blobs.get(name)
                if blob is None:
                    break
                address = blob.address
            try:
                found = self.store.read(address)
            except BufferDamagedError:
                if last == TRIES - 1 or blob.address == address:
                    raise
                continue
            if bytes(found.body[:32]) == name:
                return bytes(found.body[32:])
        raise RecordNotFoundError(f"no frame {digest} in {self.directory}.")

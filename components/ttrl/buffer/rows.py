"""The table of live records: one slot a record, one numpy column a property.

Slots are reused after removal; whoever remembers a slot (an index) remembers the sequence number with it, and a pair
that no longer matches is stale.
"""

from __future__ import annotations

import numpy as np

ROW = np.dtype(
    [
        ("sequence", np.int64), ("address", np.int64), ("size", np.int64), ("patched", np.int64),
        ("created", np.float64), ("updated", np.float64), ("override", np.float64), ("confidence", np.float32),
        ("reward", np.float32), ("retrieved", np.uint32), ("succeeded", np.uint32), ("origin", np.uint32),
        ("source", np.int32), ("subject", np.int32), ("label", np.int32), ("flags", np.uint32),
    ]
)  # fmt: skip
"""A record. One structured array, so that storing a record is one assignment; `columns` are views of it."""


class Names:
    """Strings by number, for the columns source, subject and label."""

    def __init__(self, texts: list[str | None] | None = None) -> None:
        self.texts: list[str | None] = texts or []
        """Text of each number; None where it was forgotten."""
        self._codes = {text: code for code, text in enumerate(self.texts) if text is not None}

    def code(self, text: str) -> int:
        """The number of a string, new if need be."""
        found = self._codes.get(text)
        if found is None:
            found = self._codes[text] = len(self.texts)
            self.texts.append(text)
        return found

    def keep_only(self, codes: set[int]) -> None:
        """Forget all other strings; their numbers stay taken."""
        self.texts = [text if code in codes else None for code, text in enumerate(self.texts)]
        self._codes = {text: code for code, text in enumerate(self.texts) if text is not None}

    def find(self, text: str) -> int:
        """The number of a string, or -1."""
        return self._codes.get(text, -1)


class Rows:
    """Columns by slot. Not thread-safe: the buffer's state lock."""

    def __init__(self) -> None:
        self.table = np.zeros(0, ROW)
        self.columns: dict[str, np.ndarray] = {name: self.table[name] for name in ROW.names or ()}
        self.keys = np.zeros((0, 16), np.uint8)
        self.alive = np.zeros(0, bool)
        self.slot_of: dict[bytes, int] = {}
        self.free: list[int] = []
        self.used = 0
        """Slots ever used; all live ones are below."""
        self.names = {"source": Names(), "subject": Names(), "label": Names()}

    def __len__(self) -> int:
        return len(self.slot_of)

    def __getattr__(self, name: str) -> np.ndarray:
        try:
            return self.__dict__["columns"][name]
        except KeyError:
            raise AttributeError(name) from None

    def live(self) -> np.ndarray:
        """Slots of all live records, ascending."""
        return np.flatnonzero(self.alive[: self.used])

    def take(self, keys: list[bytes]) -> np.ndarray:
        """Slots for keys: the present one where the key is live, else a free or new one."""
        slots = np.empty(len(keys), np.int64)
        for i, key in enumerate(keys):
            slot = self.slot_of.get(key)
            if slot is None:
                if self.free:
                    slot = self.free.pop()
                else:
                    slot = self.used
                    self.used += 1
                    if slot >= len(self.alive):
                        self._grow(slot + 1)
                self.slot_of[key] = slot
                self.keys[slot] = np.frombuffer(key, np.uint8)
                self.alive[slot] = True
            slots[i] = slot
        return slots

    def fill(self, keys: np.ndarray) -> None:
        """Make keys (n, 16), all different, live in slots 0 .. n - 1 of an empty table."""
        count = len(keys)
        if count:
            self._grow(count)
        data = keys.tobytes()
        self.slot_of = {data[16 * i : 16 * i + 16]: i for i in range(count)}
        self.keys[:count], self.alive[:count] = keys, True
        self.used = count

    def release(self, key: bytes) -> int:
        """Forget a live key; returns the slot it had."""
        slot = self.slot_of.pop(key)
        self.alive[slot] = False
        self.free.append(slot)
        return slot

    def key(self, slot: int) -> bytes:
        """The key in a slot."""
        return self.keys[slot].tobytes()

    def _grow(self, slots: int) -> None:
        room = max(1024, slots + slots // 4)
        table, keys, alive = np.zeros(room, ROW), np.zeros((room, 16), np.uint8), np.zeros(room, bool)
        table[: len(self.table)] = self.table
        keys[: len(self.keys)], alive[: len(self.alive)] = self.keys, self.alive
        self.table, self.keys, self.alive = table, keys, alive
        self.columns = {name: table[name] for name in ROW.names or ()}

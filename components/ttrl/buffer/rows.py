"""The table of live records: one slot a record, one numpy column a property.

Slots are reused after removal; whoever remembers a slot (an index) remembers the sequence number with it, and a pair
that no longer matches is stale.
"""

from __future__ import annotations

import numpy as np

from components.ttrl.buffer.record import FIXED_ROW

ROW = np.dtype(
    [
        ("sequence", "<i8"), ("address", "<i8"), ("size", "<i8"), ("patched", "<i8"), ("record", FIXED_ROW),
        ("source", "<i4"), ("subject", "<i4"), ("label", "<i4"),
    ]
)  # fmt: skip
"""A live record: where it lies, the fixed part of its body as in the log, and the numbers of its names."""
WHOLE = np.dtype(f"V{ROW.itemsize}")
"""A row as mere bytes: copying structures goes field by field, which is many times slower."""


def _offset(name: str) -> int:
    """Of a field of a row or of its fixed part."""
    fields, fixed = ROW.fields, FIXED_ROW.fields
    assert fields is not None and fixed is not None
    return fields[name][1] if name in fields else fields["record"][1] + fixed[name][1]


_NAMES = ["key", "sequence", "label", "source", "confidence", "reward"]
SHOWN = np.dtype(
    {
        "names": _NAMES,
        "formats": ["V16", "<i8", "<i4", "<i4", "<f4", "<f4"],
        "offsets": [_offset(name) for name in _NAMES],
        "itemsize": ROW.itemsize,
    }
)
"""What a search answers of a row: one gathering instead of one a column."""
WHOLE_FIXED = np.dtype(f"V{FIXED_ROW.itemsize}")
"""The same for the fixed part."""


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
    """Columns by slot: `columns` are views of one table. Not thread-safe: the buffer's state lock."""

    def __init__(self) -> None:
        self.alive = np.zeros(0, bool)
        self._adopt(np.zeros(0, ROW))
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

    def take(self, key: bytes) -> int:
        """A free or new slot for a key that has none; it is live once `put` has filled it."""
        if self.free:
            slot = self.free.pop()
        else:
            slot = self.used
            self.used += 1
        self.slot_of[key] = slot
        return slot

    def put(self, slots: slice | np.ndarray, table: np.ndarray) -> None:
        """Fill slots (n,) with rows (n,) ROW."""
        if self.used > len(self.alive):
            self._grow(self.used)
        self.table.view(WHOLE)[slots] = table.view(WHOLE)
        self.alive[slots] = True

    def fill(self, records: np.ndarray) -> None:
        """Make records (n,) FIXED_ROW, of different keys, live in slots 0 .. n - 1 of an empty table."""
        count = len(records)
        if count:
            self._grow(count)
        keys = np.ascontiguousarray(records["key"]).reshape(-1, 16).view("V16").reshape(-1)
        self.slot_of = dict(zip(keys.tolist(), range(count)))
        self.table["record"].view(WHOLE_FIXED)[:count] = records.view(WHOLE_FIXED)
        self.alive[:count] = True
        self.used = count

    def copies(self) -> tuple[np.ndarray, np.ndarray]:
        """Copies of all rows (used,) ROW and of which are live (used,)."""
        return self.table[: self.used].view(WHOLE).copy().view(ROW), self.alive[: self.used].copy()

    def shown(self, slots: np.ndarray) -> list[tuple[bytes, int, int, int, float, float]]:
        """Of slots (n,): key, sequence number, numbers of label and source, confidence, reward."""
        found: list[tuple[bytes, int, int, int, float, float]] = self.whole[slots].view(SHOWN).tolist()
        return found

    def release(self, key: bytes) -> int:
        """Forget a live key; returns the slot it had."""
        slot = self.slot_of.pop(key)
        self.alive[slot] = False
        self.free.append(slot)
        return slot

    def key(self, slot: int) -> bytes:
        """The key in a slot."""
        return self.key_bytes[slot].tobytes()

    def _grow(self, slots: int) -> None:
        room = max(1024, slots + slots // 4)
        table, alive = np.zeros(room, ROW), np.zeros(room, bool)
        table.view(WHOLE)[: len(self.table)] = self.table.view(WHOLE)
        alive[: len(self.alive)] = self.alive
        self.alive = alive
        self._adopt(table)

    def _adopt(self, table: np.ndarray) -> None:
        fixed = table["record"]
        self.table, self.whole = table, table.view(WHOLE)
        self.columns = {
            **{name: table[name] for name in ROW.names or () if name != "record"},
            **{name: fixed[name] for name in FIXED_ROW.names or () if name != "key"},
        }  # fmt: skip
        self.key_bytes = fixed["key"]

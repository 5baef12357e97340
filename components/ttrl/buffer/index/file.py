"""An index on disk: JSON head with checksums, the sequence number of each row's record, the faiss bytes.

u8[8] "PLXINDX1" | u32 head bytes | u32 CRC32C of the head | head | i64[n] sequences | u8[m] index
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c

from components.shared.runtime.config import canonical_json
from components.ttrl.buffer.errors import BufferDamagedError
from components.ttrl.buffer.index.kinds import Spec

MAGIC = b"PLXINDX1"
LEAD = struct.Struct("<8sII")


@dataclass
class IndexFile:
    """Content of an index file."""

    spec: Spec
    recall: float
    """recall@10 measured on the records when it was built."""
    sequences: np.ndarray
    """(n,) int64: which version of which record each row is."""
    data: np.ndarray
    """(m,) uint8: faiss bytes; empty for kind `flat`, which needs no index."""

    def encode(self) -> list[Any]:
        """The file's bytes, in parts."""
        content = {
            "spec": asdict(self.spec), "recall": self.recall, "count": len(self.sequences), "bytes": len(self.data),
            "sequences_crc": crc32c(self.sequences.data), "data_crc": crc32c(self.data.data),
        }  # fmt: skip
        head = canonical_json(content).encode()
        return [LEAD.pack(MAGIC, len(head), crc32c(head)) + head, self.sequences.tobytes(), self.data]


def read(path: Path) -> IndexFile:
    """Read and verify.

    Raises:
        BufferDamagedError: any byte is not what it was.
        FileNotFoundError: none there.
    """
    data = np.fromfile(path, np.uint8)
    good = len(data) >= LEAD.size
    if good:
        magic, length, checksum = LEAD.unpack_from(data.data)
        head = data[LEAD.size : LEAD.size + length].tobytes()
        good = magic == MAGIC and crc32c(head) == checksum and len(head) == length
    if good:
        content = json.loads(head)
        start = LEAD.size + length
        middle = start + 8 * content["count"]
        sequences, rest = data[start:middle], data[middle:]
        good = (len(rest) == content["bytes"] and crc32c(sequences.data) == content["sequences_crc"]
                and crc32c(rest.data) == content["data_crc"])  # fmt: skip
    if not good:
        raise BufferDamagedError(f"{path} does not match its checksum: the index is built again.")
    return IndexFile(Spec(**content["spec"]), content["recall"], np.frombuffer(sequences.tobytes(), np.int64), rest)

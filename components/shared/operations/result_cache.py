"""Results by content: equal pixels, arguments and operation give the result already computed."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

from components.shared.operations.arguments import Arguments
from components.shared.operations.frames import Frames, frame_digest
from components.shared.operations.operation import Operation
from components.shared.operations.result import OperationResult
from components.shared.runtime.config import canonical_json

ENTRY = 512
"""Bytes of a drawing or of a list's entry: a small dictionary with a box."""


class ResultCache:
    """Least recently used results within a budget of memory; safe to use from several threads.

    Args:
        limit_bytes: Approximate memory for results, 0 for no cache.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._results: OrderedDict[bytes, OperationResult] = OrderedDict()
        self._lock = threading.Lock()

    def key(self, item: Operation, arguments: Arguments, frames: Frames) -> bytes | None:
        """Digest of operation, version, arguments and the pixels a call touches; None where nothing is cached."""
        if item.frames_used is None or not item.cacheable or not self.limit_bytes:
            return None
        digest = hashlib.sha256(f"{item.name}\0{item.version}\0{len(frames)}\0".encode())
        digest.update(canonical_json(arguments.model_dump(mode="json")).encode())
        for index in item.frames_used(arguments, len(frames)):
            digest.update(frame_digest(frames[index]))
        return digest.digest()

    def get(self, key: bytes) -> OperationResult | None:
        """The result of a key, if it is still here."""
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
            return self._results.get(key)

    def put(self, key: bytes, result: OperationResult) -> None:
        """Remember a result; the least recently used go where the budget is full."""
        with self._lock:
            if key in self._results:
                return
            self._results[key] = result
            self.size_bytes += size_bytes(result)
            while self.size_bytes > self.limit_bytes and self._results:
                self.size_bytes -= size_bytes(self._results.popitem(last=False)[1])


def size_bytes(result: OperationResult) -> int:
    """Approximate bytes a result holds: its pixels, and what is many in it (drawings, lists, a mask's run lengths)."""
    masks = sum(ENTRY + (drawing.mask.nbytes if drawing.mask is not None else 0) for drawing in result.drawings)
    lists = sum(ENTRY * len(value) for value in result.data.values() if isinstance(value, list))
    runs = 16 * len(result.data.get("mask", {}).get("counts", ())) if isinstance(result.data.get("mask"), dict) else 0
    return 1024 + len(result.text) + masks + lists + runs + (result.image.nbytes if result.image is not None else 0)

"""The audit log: who changed what, as a keyed chain that shows every later change of it.

    python -m components.ttrl.audit STATE        verifies; exit code 0 whole, 4 not

Format of `<state>/audit.jsonl`, one JSON object a line: `seq` from 1, `at`, `by`, `action`, `facts`, and
`mac` = HMAC-SHA256(key, mac of the line before + the line without `mac`, keys sorted). `<state>/audit.key` (mode 0600)
holds the key, `<state>/audit.head` the last line's number and mac, so that a cut end is seen as well.

Guarantees: a changed, removed, added or reordered line is found, with its number; the chain goes on after a restart. A
line cut by a crash (its head was never written) is dropped at the next start.
Not guaranteed: anything against someone who can read the key; keep a copy of the head elsewhere for that.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import sys
import threading
import time
from pathlib import Path
from typing import Any

from components.shared.runtime.artifacts import atomic_write, read_json
from components.shared.runtime.config import canonical_json
from components.shared.runtime.errors import ArtifactError, PixelisError
from components.ttrl.lines import append_line

LOG, KEY, HEAD = "audit.jsonl", "audit.key", "audit.head"
START = "0" * 64


class AuditLog:
    """Appends to the chain of one state directory; each line is on disk when `append` returns."""

    def __init__(self, state: Path) -> None:
        self._state, self._lock = state, threading.Lock()
        state.mkdir(parents=True, exist_ok=True)
        if not (state / KEY).exists():
            atomic_write(state / KEY, secrets.token_hex(32), mode=0o600)
        self._key = bytes.fromhex((state / KEY).read_text().strip())
        self._seq, self._mac = _head(state)
        self._drop_torn_end()

    def append(self, action: str, by: str, facts: dict[str, Any]) -> None:
        """Add a line."""
        with self._lock:
            line = {"seq": self._seq + 1, "at": time.time(), "by": by, "action": action, "facts": facts}
            mac = _mac(self._key, self._mac, line)
            append_line(self._state / LOG, canonical_json({**line, "mac": mac}))
            atomic_write(self._state / HEAD, canonical_json({"seq": self._seq + 1, "mac": mac}))
            self._seq, self._mac = self._seq + 1, mac

    def _drop_torn_end(self) -> None:
        """Cut the line a crash left after the last acknowledged one; a whole chain is left as it is.

        Raises:
            ArtifactError: more than one line is there without its head, which no crash leaves: evidence is not cut.
        """
        path = self._state / LOG
        data = path.read_bytes() if path.exists() else b""
        lines = data.splitlines(keepends=True)
        if len(lines) > self._seq + 1:
            raise ArtifactError(
                f"{path} has {len(lines)} lines, {self._state / HEAD} speaks of {self._seq}: one of them was changed, "
                "so nothing is added to the log.",
                remedy="Put the right audit.head back, or move audit.jsonl and audit.head aside together.",
            )
        kept = b"".join(lines[: self._seq])
        if len(kept) < len(data):
            os.truncate(path, len(kept))


def verify(state: Path) -> int:
    """Check the whole chain; returns its number of lines.

    Raises:
        ArtifactError: names the first line that is not what was written.
    """
    key = bytes.fromhex((state / KEY).read_text().strip())
    seq, mac = 0, START
    path = state / LOG
    for number, text in enumerate(path.read_bytes().splitlines() if path.exists() else [], 1):
        try:
            line = json.loads(text)
            found = line.pop("mac")
        except (ValueError, KeyError, AttributeError):
            raise _broken(path, number, "is not an audit line") from None
        expected = _mac(key, mac, line)
        if line.get("seq") != number or not hmac.compare_digest(str(found), expected):
            raise _broken(path, number, "was changed, or lines before it were removed or added")
        seq, mac = number, expected
    if (seq, mac) != _head(state):
        raise _broken(path, seq + 1, f"is missing: the head names line {_head(state)[0]}")
    return seq


def _mac(key: bytes, before: str, line: dict[str, Any]) -> str:
    return hmac.new(key, (before + canonical_json(line)).encode(), hashlib.sha256).hexdigest()


def _head(state: Path) -> tuple[int, str]:
    if not (state / HEAD).exists():
        return 0, START
    head = read_json(state / HEAD)
    return int(head["seq"]), str(head["mac"])


def _broken(path: Path, number: int, what: str) -> ArtifactError:
    return ArtifactError(f"{path} line {number} {what}: the log is not to be trusted from there on.")


def main(argv: list[str]) -> int:
    """Verify from the command line."""
    if len(argv) != 1:
        print("usage: python -m components.ttrl.audit STATE", file=sys.stderr)
        return 2
    try:
        print(f"{verify(Path(argv[0]))} lines, whole")
    except (PixelisError, OSError) as error:
        print(error, file=sys.stderr)
        return ArtifactError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

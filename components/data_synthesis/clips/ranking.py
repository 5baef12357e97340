"""An order of names that looks random and depends on nothing but the seed and each name."""

from __future__ import annotations

import hashlib


def rank(seed: int, name: str) -> str:
    """A pseudo-random order of names that does not depend on what else is there."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()

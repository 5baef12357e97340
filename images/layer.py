"""Prints the part of a lock file that belongs to one layer of the images; run while an image is built.

    python3 layer.py base|learning-cpu|learning-gpu requirements.lock

Every package is in exactly one of `base` and `learning-cpu`, GPU_ONLY aside.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

LEARNING = {
    "accelerate", "faiss-cpu", "mpmath", "networkx", "peft", "regex", "safetensors", "sympy", "tokenizers",
    "transformers",
}  # fmt: skip
"""What only training and serving import, and what torch needs. torch itself is not in the lock."""
GPU_ONLY = {"bitsandbytes"}
LEFT_OUT = {"learning-cpu": GPU_ONLY, "learning-gpu": {*GPU_ONLY, "faiss-cpu"}}
"""What a variant does without, or has from gpu.lock."""


def entries(lock: str) -> Iterator[tuple[str, str]]:
    """Each requirement with its marker and hashes: (name, text)."""
    for match in re.finditer(r"(?m)^([A-Za-z0-9._-]+)==(?:.*\\\n)*.*\n", lock):
        yield match.group(1).lower(), match.group(0)


def select(layer: str, lock: str) -> str:
    """The layer's requirements, in the lock's order."""
    kept = []
    for name, text in entries(lock):
        learning = name in LEARNING or name in GPU_ONLY
        if learning == (layer != "base") and name not in LEFT_OUT.get(layer, ()):
            kept.append(text)
    return "".join(kept)


if __name__ == "__main__":
    print(select(sys.argv[1], Path(sys.argv[2]).read_text()), end="")

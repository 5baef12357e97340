"""The digest of a step's source: its own files and every project file they import, directly or not.

kfp's local cache does not see imported code, so the digest travels in the step's section. Only what a step can reach
counts: a change of the policy's code does not repeat the rendering of recordings.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import components

ROOT = Path(str(components.__file__)).parent.parent
PROJECT = "components"


def source_digest(package: str) -> str:
    """sha256 (first 16 hex digits) over the sources that a step's package reaches.

    Args:
        package: Dotted name, such as `components.sft`.
    """
    folder = ROOT / package.replace(".", "/")
    reached: set[Path] = set()
    queue = sorted(folder.rglob("*.py"))
    while queue:
        path = queue.pop()
        if path not in reached:
            reached.add(path)
            queue += imported(path)
    digest = hashlib.sha256()
    for path in sorted(reached):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def imported(path: Path) -> list[Path]:
    """Project files that a file names in its imports, those inside functions too."""
    found: list[Path] = []
    for node in ast.walk(ast.parse(path.read_text())):
        for name in named(node):
            found += files(name)
    return found


def named(node: ast.AST) -> Iterator[str]:
    """Dotted names that an import statement may load."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(name: str) -> Iterator[Path]:
    """The file of a dotted name and the `__init__.py` of every package above it."""
    parts = name.split(".")
    if parts[0] != PROJECT:
        return
    for length in range(1, len(parts) + 1):
        place = ROOT.joinpath(*parts[:length])
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                yield path

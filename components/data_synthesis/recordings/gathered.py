"""What every reader hands back, and how videos get into the artifact."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from components.shared.runtime.artifacts import sha256_file
from components.shared.work.manifest import Recording, Skipped


@dataclass
class Gathered:
    """Recordings of one source, what was left out, and what the report should say.

    Attributes:
        bad: How many recordings could not be read (counted against `max_bad_share`).
        notes: Sentences for the report.
        facts: Counts for the report (`rows_read`, `rows_outside`, …).
    """

    labels: tuple[str, ...]
    recordings: list[Recording] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    bad: int = 0
    notes: list[str] = field(default_factory=list)
    facts: dict[str, int] = field(default_factory=dict)

    def skip(self, path: str, reason: str, *, row: int | None = None, bad: bool = False) -> None:
        """Leave something out and say why."""
        self.skipped.append(Skipped(path=path, reason=reason, row=row))
        self.bad += bad


def place_video(source: Path, artifact: Path, name: str, *, copy: bool) -> tuple[str, str]:
    """Copy a video into the artifact, or leave it where it is; returns (manifest path, sha256)."""
    if not copy:
        return str(source.resolve()), sha256_file(source)
    target = artifact / "videos" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target.relative_to(artifact).as_posix(), sha256_file(target)

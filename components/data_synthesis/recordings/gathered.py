"""What every reader hands back, and how videos get into the artifact."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from components.shared.runtime.artifacts import sha256_file
from components.shared.work.manifest import Recording, Skipped


@dataclass(frozen=True)
class Target:
    """Where footage goes.

    Attributes:
        artifact: The artifact's folder.
        placing: Whether footage is copied into it, moved (what was fetched for it), or left, its own path noted.
    """

    artifact: Path
    placing: Literal["copy", "move", "leave"]

    def place(self, source: Path, name: str) -> str:
        """Bring a video or a folder of frames into the artifact, or leave it; returns its path for the manifest."""
        if self.placing == "leave":
            return str(source.resolve())
        place = self.artifact / "videos" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if self.placing == "move":
            shutil.move(source, place)
        elif source.is_dir():
            shutil.copytree(source, place)
        else:
            shutil.copyfile(source, place)
        return place.relative_to(self.artifact).as_posix()

    def place_video(self, source: Path, name: str) -> tuple[str, str]:
        """The same for a video; returns also its sha256."""
        place = self.place(source, name)
        return place, sha256_file(self.artifact / place)


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

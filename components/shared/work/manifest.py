"""The manifest of a recordings artifact: what every source (twin, OpenPack, segments folder) is turned into.

Layout of the artifact:

    manifest.json            this file's `Manifest`
    <recording.video>        relative to the artifact, or absolute where the data stays where it is

Times are seconds from the first frame of the recording. Label names are those of the source; nothing downstream knows
OpenPack ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from components.shared.runtime.artifacts import read_json, write_json
from components.shared.runtime.config import Section

Split = Literal["train", "validation", "test"]
MANIFEST = "manifest.json"


class Segment(Section):
    """One labelled stretch of a recording."""

    label: str
    start_s: float = Field(ge=0)
    end_s: float
    box: int = 0
    """Number of the order being packed, 0 where the source has none."""


class Recording(Section):
    """One recording with its annotation."""

    recording_id: str
    subject: str
    """The person (aliases resolved), or the video's own name where the source names nobody."""
    session: str
    split: Split
    video: str
    """Path of the video file, or of the folder of timestamped frames, relative to the artifact or absolute."""
    kind: Literal["video", "frames"] = "video"
    fps: float = Field(gt=0)
    num_frames: int = Field(gt=0)
    width: int
    height: int
    duration_s: float = Field(gt=0)
    has_audio: bool = False
    sha256: str
    segments: tuple[Segment, ...]


class Skipped(Section):
    """Something that was left out, and why."""

    path: str
    reason: str
    row: int | None = None


class Manifest(Section):
    """All recordings of a run."""

    version: int = 1
    source: Literal["twin", "openpack", "segments"]
    provenance: Literal["synthetic", "real"]
    split_by: Literal["person", "video"]
    labels: tuple[str, ...]
    """Scored label names in the order of work (the source's order where there is none); `null_label` not among them."""
    null_label: str | None = None
    """Label of stretches that are not scored (`Null` in OpenPack), None where the source has none."""
    captions: dict[str, str] = {}
    """One short phrase per label, for contrastive training; the label itself where the source has none."""
    transitions: dict[str, dict[str, int]] = {}
    """Counts of label -> next differing label in training recordings: the grammar of the work."""
    recordings: tuple[Recording, ...]
    skipped: tuple[Skipped, ...] = ()

    def resolve(self, recording: Recording, artifact: Path) -> Path:
        """Absolute path of a recording's video."""
        path = Path(recording.video)
        return path if path.is_absolute() else artifact / path


def load_manifest(artifact: Path) -> Manifest:
    """Read and validate the manifest of a recordings artifact."""
    return Manifest.model_validate(read_json(artifact / MANIFEST))


def save_manifest(manifest: Manifest, artifact: Path) -> None:
    """Write the manifest of a recordings artifact."""
    write_json(artifact / MANIFEST, manifest.model_dump(mode="json"))

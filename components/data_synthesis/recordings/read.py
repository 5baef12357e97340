"""The recordings step: any source becomes one manifest with videos beside it.

Guarantees: every person (or, where the source names nobody, every video) is on one side of the split; every file that
was left out is in the manifest with its reason; more bad recordings than `max_bad_share` fail the step, and nothing
usable fails it too. Not guaranteed: that every side is filled: the report says which is empty.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.data_synthesis.recordings.config import RecordingsConfig
from components.data_synthesis.recordings.contact_sheet import draw_in_child
from components.data_synthesis.recordings.gathered import Gathered, Target
from components.shared.runtime.errors import InputError
from components.shared.runtime.report import Report
from components.shared.runtime.stores import fetch_folder, is_address
from components.shared.work.grammar import count_transitions
from components.shared.work.manifest import Manifest, Recording, save_manifest
from components.shared.work.operations import CAPTIONS, LABELS, NULL_NAME
from components.shared.work.people import refuse_leaks

SIDES = ("train", "validation", "test")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordingsInputs:
    """The step reads its source from the configuration."""


@dataclass(frozen=True)
class RecordingsOutputs:
    """Where the step writes.

    Attributes:
        recordings: manifest.json, the videos, contact_sheet.png.
        truth: The twin's scene ground truth, one JSON a recording; empty for other sources.
    """

    recordings: Path
    truth: Path


def read_recordings(config: RecordingsConfig, inputs: RecordingsInputs, outputs: RecordingsOutputs) -> Report:
    """Turn the configured source into a recordings artifact.

    Raises:
        InputError: the source is missing, empty or wrong; names file and row.
        StepError: the twin's rendering stopped.
    """
    started = time.monotonic()
    with _at_hand(config, outputs.recordings) as (near, target):
        gathered, by_person = _gather(near, target, outputs)
    _refuse_bad(config, gathered)
    refuse_leaks([(recording.subject, recording.split) for recording in gathered.recordings])
    null_label = None if config.source == "segments" else NULL_NAME
    manifest = Manifest(
        source=config.source,
        provenance="synthetic" if config.source == "twin" else "real",
        split_by="person" if by_person else "video",
        labels=gathered.labels,
        null_label=null_label,
        captions=CAPTIONS
        if config.source != "segments"
        else {label: label.replace("_", " ") for label in gathered.labels},
        transitions=count_transitions(
            (r.segments for r in gathered.recordings if r.split == "train"), null_label=null_label
        ),
        recordings=tuple(gathered.recordings),
        skipped=tuple(gathered.skipped),
    )
    save_manifest(manifest, outputs.recordings)
    seconds = time.monotonic() - started
    sheet = draw_in_child(outputs.recordings, outputs.recordings / "contact_sheet.png")
    report = _report(config, manifest, gathered, seconds)
    if sheet is not None:
        report.pictures["What each operation looks like"] = sheet
    return report


@contextmanager
def _at_hand(config: RecordingsConfig, artifact: Path) -> Iterator[tuple[RecordingsConfig, Target]]:
    """The configuration with a folder on this machine, and how its footage gets into the artifact.

    What lies in an object store is fetched beside the artifact and moved into it: it takes its size on disk once.

    Raises:
        ArtifactError, EnvironmentFault: nothing there, or the store does not answer.
    """
    if config.source == "twin" or not is_address(config.path):
        yield config, Target(artifact, "copy" if config.copy_videos else "leave")
        return
    with tempfile.TemporaryDirectory(dir=artifact.parent, prefix=f".{artifact.name}.staged-") as folder:
        num_files, size_bytes = fetch_folder(config.path, Path(folder))
        log.info("fetched %d files, %d bytes from %s", num_files, size_bytes, config.path)
        yield config.model_copy(update={"path": folder}), Target(artifact, "move")


def _gather(config: RecordingsConfig, target: Target, outputs: RecordingsOutputs) -> tuple[Gathered, bool]:
    if config.source == "openpack":
        from components.data_synthesis.recordings.openpack import read_openpack

        return read_openpack(config, target), True
    if config.source == "segments":
        from components.data_synthesis.recordings.segments import read_segments

        return read_segments(config, target)
    from components.data_synthesis.recordings.twin.source import render_twin

    return Gathered(LABELS, render_twin(config, outputs.recordings, outputs.truth)), True


def _refuse_bad(config: RecordingsConfig, gathered: Gathered) -> None:
    """Fail when nothing, or too little, could be read."""
    reasons = "; ".join(f"{item.path}: {item.reason}" for item in gathered.skipped[:3])
    if not gathered.recordings:
        raise InputError(
            f"recordings.path = {config.path}: no usable recording" + (f" ({reasons})." if reasons else "."),
            remedy="Check the folder and its annotation.",
        )
    share = gathered.bad / (gathered.bad + len(gathered.recordings))
    if share > config.max_bad_share:
        raise InputError(
            f"{gathered.bad} of {gathered.bad + len(gathered.recordings)} recordings cannot be used, "
            f"{share:.0%} (allowed are {config.max_bad_share:.0%}): {reasons}.",
            remedy="Repair them, or raise recordings.max_bad_share.",
        )


def _report(config: RecordingsConfig, manifest: Manifest, gathered: Gathered, seconds: float) -> Report:
    frames = sum(recording.num_frames for recording in manifest.recordings)
    by_side = {side: [r for r in manifest.recordings if r.split == side] for side in SIDES}
    for side, recordings in by_side.items():
        if not recordings:
            gathered.notes.append(f"No recording is on the {side} side.")
    metrics: dict[str, float] = {
        "num_recordings": len(manifest.recordings),
        "num_people": len({recording.subject for recording in manifest.recordings})
        if manifest.split_by == "person"
        else 0,
        "num_frames": frames,
        "duration_s": sum(recording.duration_s for recording in manifest.recordings),
        "num_segments": sum(len(recording.segments) for recording in manifest.recordings),
        "num_skipped": len(manifest.skipped),
        "num_bad": gathered.bad,
        "seconds": round(seconds, 3),
        "frames_per_s": frames / seconds,
    }
    metrics.update({f"num_{side}": len(recordings) for side, recordings in by_side.items()})
    return Report(
        metrics=metrics,
        provenance=manifest.provenance,
        markdown=_markdown(config, manifest, gathered, by_side),
        facts={
            "source": manifest.source,
            "split_by": manifest.split_by,
            **gathered.facts,
            "skipped": [item.model_dump(mode="json") for item in manifest.skipped[:50]],
        },
    )


def _markdown(
    config: RecordingsConfig, manifest: Manifest, gathered: Gathered, by_side: dict[str, list[Recording]]
) -> str:
    origin = "rendered by the digital twin" if manifest.source == "twin" else f"read from `{Path(config.path).name}`"
    lines = [
        f"{len(manifest.recordings)} recordings {origin}, split by **{manifest.split_by}**"
        + ("" if manifest.split_by == "person" else " (the source names no subjects, so a person may be on two sides)")
        + ".",
        "",
        "| side | recordings | people | minutes | segments |",
        "|---|---|---|---|---|",
    ]
    for side, recordings in by_side.items():
        people = len({r.subject for r in recordings}) if manifest.split_by == "person" else "unknown"
        minutes = sum(r.duration_s for r in recordings) / 60
        lines.append(
            f"| {side} | {len(recordings)} | {people} | {minutes:.1f} | {sum(len(r.segments) for r in recordings)} |"
        )
    seconds: dict[str, float] = {}
    for recording in manifest.recordings:
        for segment in recording.segments:
            seconds[segment.label] = seconds.get(segment.label, 0.0) + segment.end_s - segment.start_s
    total = sum(seconds.values())
    if total:
        lines += ["", "Share of labelled time: " + ", ".join(f"{k} {v / total:.0%}" for k, v in seconds.items()) + "."]
    if gathered.facts:
        lines += ["", "Counts: " + ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in gathered.facts.items()) + "."]
    lines += ["", *gathered.notes] if gathered.notes else []
    if manifest.skipped:
        lines += ["", f"Left out ({len(manifest.skipped)}):", ""]
        rows = [f"- `{s.path}`{f', row {s.row}' if s.row else ''}: {s.reason}" for s in manifest.skipped[:20]]
        lines += rows + (
            [f"- … and {len(manifest.skipped) - 20} more (manifest.json)"] if len(manifest.skipped) > 20 else []
        )
    return "\n".join(lines) + "\n"

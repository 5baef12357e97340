"""The recordings step: any source becomes one manifest with videos beside it.

Guarantees: every person (or, where the source names nobody, every video) is on one side of the split; every file that was
left out is in the manifest with its reason; more bad recordings than `max_bad_share` fail the step.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from components.data_synthesis.recordings.config import RecordingsConfig
from components.shared.runtime.report import Report
from components.shared.work.grammar import count_transitions
from components.shared.work.manifest import Manifest, Recording, save_manifest
from components.shared.work.operations import CAPTIONS, LABELS, NULL_NAME


@dataclass(frozen=True)
class RecordingsInputs:
    """The step reads its source from the configuration."""


@dataclass(frozen=True)
class RecordingsOutputs:
    """Where the step writes.

    Attributes:
        recordings: manifest.json and the videos.
        truth: The twin's scene ground truth, one JSON a recording; empty for other sources.
    """

    recordings: Path
    truth: Path


def read_recordings(config: RecordingsConfig, inputs: RecordingsInputs, outputs: RecordingsOutputs) -> Report:
    """Turn the configured source into a recordings artifact."""
    from components.data_synthesis.recordings.twin.source import render_twin

    started = time.monotonic()
    recordings = render_twin(config, outputs.recordings, outputs.truth)
    manifest = Manifest(
        source="twin",
        provenance="synthetic",
        split_by="person",
        labels=LABELS,
        null_label=NULL_NAME,
        captions=CAPTIONS,
        transitions=count_transitions([r.segments for r in recordings if r.split == "train"], null_label=NULL_NAME),
        recordings=tuple(recordings),
    )
    save_manifest(manifest, outputs.recordings)
    seconds = time.monotonic() - started
    frames = sum(r.num_frames for r in recordings)
    return Report(metrics={"num_recordings": len(recordings), "num_frames": frames, "seconds": seconds, "frames_per_s": frames / seconds})

"""Writes a rendered recording's official CSVs and its entry in the manifest."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from components.data_synthesis.recordings.config import TwinSection
from components.data_synthesis.recordings.twin.render import Rendered, video_path
from components.shared.runtime.artifacts import sha256_file
from components.shared.work.manifest import Recording, Segment
from components.shared.work.openpack_csv import OperationRow, operation_uuid, write_operations, write_seconds
from components.shared.work.operations import NAMES
from components.shared.work.series import second_rows


def write_annotation(rendered: Rendered, config: TwinSection, recordings: Path) -> Recording:
    """Write both CSVs beside the video in the tree; returns the recording's manifest entry."""
    job = rendered.job
    rows = [
        OperationRow(
            uuid=operation_uuid(job.user, job.session, index),
            user=job.user,
            session=job.session,
            box=step.order,
            operation=step.operation,
            start=job.start + timedelta(seconds=step.start_s),
            end=job.start + timedelta(seconds=step.end_s),
        )
        for index, step in enumerate(rendered.steps)
    ]
    annotation = recordings / job.user / "annotation"
    write_operations(annotation / "openpack-operations" / f"{job.session}.csv", rows)
    write_seconds(annotation / "openpack-operations-1hz" / f"{job.session}.csv", second_rows(rows))
    path = video_path(job)
    return Recording(
        recording_id=job.recording_id,
        subject=job.user,
        session=job.session,
        split=job.split,
        video=path.as_posix(),
        fps=config.fps,
        num_frames=rendered.num_frames,
        width=config.width,
        height=config.height,
        duration_s=rendered.num_frames / config.fps,
        has_audio=config.audio,
        sha256=sha256_file(recordings / path),
        segments=tuple(
            Segment(label=NAMES[s.operation], start_s=round(s.start_s, 3), end_s=round(s.end_s, 3), box=s.order)
            for s in rendered.steps
        ),
    )

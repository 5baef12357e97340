"""A picture for people: what each label looks like in this set of recordings.

Role: three moments (beginning, middle, end) of one segment per label, from different recordings where there are enough,
on one PNG. Read from the finished videos, so it also shows what compression left; in a child process, because videos
are untrusted and a picture for people is no reason to fail.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np

from components.shared.video.picture import read_picture
from components.shared.work.frames import list_frames
from components.shared.work.manifest import Manifest, Recording, Segment, load_manifest

MOMENTS = (0.2, 0.5, 0.8)
TIME_LIMIT_S = 300.0
log = logging.getLogger(__name__)


def draw_in_child(artifact: Path, target: Path) -> Path | None:
    """Write the contact sheet of a recordings artifact; None, and a warning, where it cannot be drawn."""
    command = [sys.executable, "-m", "components.data_synthesis.recordings.contact_sheet", str(artifact), str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        log.warning("no contact sheet: drawing it took more than %.0f s", TIME_LIMIT_S)
        return None
    if done.returncode:
        log.warning("no contact sheet (exit status %d): %s", done.returncode, done.stderr.strip().rpartition("\n")[2])
    return target if target.is_file() else None


def draw_contact_sheet(manifest: Manifest, artifact: Path, target: Path) -> Path | None:
    """Write the contact sheet; None when no recording has a labelled segment."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    chosen = choose_segments(manifest)
    if not chosen:
        return None
    columns = 2 if len(chosen) > 3 else 1
    rows = -(-len(chosen) // columns)
    figure, axes = pyplot.subplots(rows, columns * 3, figsize=(columns * 6.6, rows * 1.95), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for index, (label, recording, segment) in enumerate(chosen):
        row, first = index % rows, index // rows * 3
        length = segment.end_s - segment.start_s
        pictures = _frames(manifest, recording, artifact, [segment.start_s + length * m for m in MOMENTS])
        for offset, picture in enumerate(pictures):
            axes[row, first + offset].imshow(picture)
        text = f"{label}  ·  {recording.subject}, {length:.1f} s"
        axes[row, first].set_title(text, loc="left", fontsize=10, fontweight="bold")
    figure.suptitle(
        f"One segment per label, {', '.join(f'{m:.0%}' for m in MOMENTS)} of the way through it", fontsize=11
    )
    figure.tight_layout(rect=(0, 0, 1, 0.985))
    figure.savefig(target, dpi=110)
    pyplot.close(figure)
    return target


def choose_segments(manifest: Manifest) -> list[tuple[str, Recording, Segment]]:
    """One clear segment per label: near the label's median length, from a recording not used yet where possible."""
    wanted = [*manifest.labels, *([manifest.null_label] if manifest.null_label else [])]
    used: set[str] = set()
    chosen = []
    for label in wanted:
        options = [(r, s) for r in manifest.recordings for s in r.segments if s.label == label]
        if not options:
            continue
        lengths = sorted(s.end_s - s.start_s for _, s in options)
        goal = lengths[int(len(lengths) * 0.7)]
        fresh = [pair for pair in options if pair[0].subject not in used] or options
        recording, segment = min(fresh, key=lambda pair: abs(pair[1].end_s - pair[1].start_s - goal))
        used.add(recording.subject)
        chosen.append((label, recording, segment))
    return chosen


def _frames(manifest: Manifest, recording: Recording, artifact: Path, times_s: list[float]) -> list[np.ndarray]:
    import av

    path = manifest.resolve(recording, artifact)
    if recording.kind == "frames":
        listed = list_frames(path)
        near = [min(listed, key=lambda item: abs(item[1] - t))[0] for t in times_s]
        return [read_picture(path)[..., ::-1] for path in near]
    taken: list[np.ndarray] = []
    last: av.VideoFrame | None = None
    with av.open(str(path)) as container:
        first_s: float | None = None
        for frame in container.decode(container.streams.video[0]):
            time_s = float(frame.time or 0.0)
            first_s = time_s if first_s is None else first_s
            last = frame
            while len(taken) < len(times_s) and time_s - first_s >= times_s[len(taken)] - 1e-6:
                taken.append(frame.to_ndarray(format="rgb24"))
            if len(taken) == len(times_s):
                break
    if last is not None:
        taken += [last.to_ndarray(format="rgb24")] * (len(times_s) - len(taken))
    return taken


if __name__ == "__main__":
    draw_contact_sheet(load_manifest(Path(sys.argv[1])), Path(sys.argv[1]), Path(sys.argv[2]))

"""A picture for people: what each label looks like in this set of recordings.

Role: three moments (beginning, middle, end) of one segment per label, from different recordings where there are enough,
on one PNG. Read from the finished videos, so it also shows what compression left; in a child process with limits of
time and memory, because videos are untrusted and a picture for people is no reason to fail.
Guarantee: the picture is there whole or not at all.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from textwrap import fill

import cv2
import numpy as np

from components.data_synthesis.recordings.prober import MEMORY_BYTES
from components.shared.runtime.errors import InputError
from components.shared.video.limits import limit_memory
from components.shared.video.picture import read_picture
from components.shared.video.random_access import read_frames
from components.shared.work.frames import list_frames
from components.shared.work.manifest import Manifest, Recording, Segment, load_manifest

MOMENTS = (0.2, 0.5, 0.8)
TIME_LIMIT_S = 300.0
WIDTH = 480
"""Of a picture on the sheet, in pixels at most."""
log = logging.getLogger(__name__)


def draw_in_child(
    artifact: Path, target: Path, *, time_limit_s: float = TIME_LIMIT_S, memory_bytes: int = MEMORY_BYTES
) -> Path | None:
    """Write the contact sheet of a recordings artifact; None, a warning and no file where it cannot be drawn."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".sheet-") as folder:
        drawn = Path(folder) / target.name
        command = [sys.executable, "-m", __name__, str(artifact), str(drawn), str(memory_bytes)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=time_limit_s, check=False)
        except subprocess.TimeoutExpired:
            log.warning("no contact sheet: drawing it took more than %g s", time_limit_s)
            return None
        if done.returncode:
            reason = done.stderr.strip().rpartition("\n")[2]
            log.warning("no contact sheet (exit status %d): %s", done.returncode, reason)
            return None
        if drawn.is_file():
            drawn.replace(target)
            return target
    return None


def draw_contact_sheet(manifest: Manifest, artifact: Path, target: Path) -> Path | None:
    """Write the contact sheet; None when no recording has a labelled segment.

    Raises:
        InputError: not one of the segments can be decoded.
    """
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
    failed: list[InputError] = []
    for index, (label, recording, segment) in enumerate(chosen):
        row, first = index % rows, index // rows * 3
        length = segment.end_s - segment.start_s
        times_s = [segment.start_s + length * moment for moment in MOMENTS]
        try:
            for offset, picture in enumerate(pictures_at(manifest, recording, artifact, times_s)):
                axes[row, first + offset].imshow(picture)
        except InputError as error:
            failed.append(error)
            axes[row, first].text(0, 1, fill(str(error), 40), va="top", fontsize=8)
        text = f"{label}  ·  {recording.subject}, {length:.1f} s"
        axes[row, first].set_title(text, loc="left", fontsize=10, fontweight="bold")
    if len(failed) == len(chosen):
        raise failed[0]
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


def pictures_at(manifest: Manifest, recording: Recording, artifact: Path, times_s: list[float]) -> list[np.ndarray]:
    """Pictures of a recording at some moments, uint8 RGB, made small.

    Raises:
        InputError: they cannot be decoded.
    """
    path = manifest.resolve(recording, artifact)
    if recording.kind == "frames":
        listed = list_frames(path)
        near = [min(listed, key=lambda item: abs(item[1] - t))[0] for t in times_s]
        return [made_small(read_picture(path)[..., ::-1]) for path in near]
    return [made_small(picture) for picture in read_frames(path, times_s)]


def made_small(picture: np.ndarray) -> np.ndarray:
    """A picture at most `WIDTH` wide: nobody sees more on the sheet, and all of them are held at once."""
    height, width = picture.shape[:2]
    if width <= WIDTH:
        return picture
    return cv2.resize(picture, (WIDTH, max(1, round(height * WIDTH / width))), interpolation=cv2.INTER_AREA)


def main() -> None:
    """Draw what the command line says, within its memory."""
    artifact, target, memory_bytes = sys.argv[1:]
    limit_memory(int(memory_bytes))
    draw_contact_sheet(load_manifest(Path(artifact)), Path(artifact), Path(target))


if __name__ == "__main__":
    main()

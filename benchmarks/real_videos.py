"""Every video under a folder through recordings, clips and trajectories, whatever it is.

    python benchmarks/real_videos.py [--data ../shared/data] [--out FOLDER]

Videos with rows in a `segments.csv` beside their folder keep those; others are one segment named after their folder.
Broken files are part of it: each is expected to be recorded with its reason while the rest goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import tempfile
import time
from pathlib import Path

SUFFIXES = {".mp4", ".mkv", ".avi", ".mov", ".webm"}


def list_videos(data: Path) -> list[Path]:
    found = [p for p in data.rglob("*") if p.suffix.lower() in SUFFIXES or p.parent.name == "videos"]
    return sorted(path for path in found if path.is_file() and path.suffix != ".csv")


def rows_of(path: Path, data: Path) -> list[tuple[str, float, float]]:
    """(label, start_s, end_s) of one video."""
    from components.data_synthesis.recordings.probe import UnreadableVideo, probe_video

    beside = path.parent.parent / "segments.csv"
    if beside.is_file():
        with open(beside, newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["video"] in (path.name, f"videos/{path.name}")]
        if rows:
            return [(row["label"], float(row["start_s"]), float(row["end_s"])) for row in rows]
    try:
        return [(path.parent.name, 0.0, probe_video(path).duration_s)]
    except UnreadableVideo:
        return [(path.parent.name, 0.0, 1.0)]


def main() -> None:
    from components.data_synthesis.clips.collect import CollectInputs, CollectOutputs, collect_clips
    from components.data_synthesis.clips.config import ClipsConfig
    from components.data_synthesis.clips.cut import CutInputs, CutOutputs, cut_clips
    from components.data_synthesis.recordings.config import RecordingsConfig
    from components.data_synthesis.recordings.read import RecordingsInputs, RecordingsOutputs, read_recordings
    from components.data_synthesis.trajectories.config import TrajectoriesConfig
    from components.data_synthesis.trajectories.synthesize import (
        TrajectoriesInputs,
        TrajectoriesOutputs,
        synthesize_trajectories,
    )
    from components.shared.samples.index import read_index, verify_artifact
    from components.shared.work.manifest import load_manifest

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp())
    source = out / "source"
    folders = {name: out / name for name in ("recordings", "truth", "group", "clips", "trajectories")}
    for folder in (source, *folders.values()):
        folder.mkdir(parents=True)
    videos = list_videos(options.data.absolute())
    with open(source / "segments.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "label", "start_s", "end_s"])
        for number, path in enumerate(videos):
            name = f"{number:03d}-{path.name}" + ("" if path.suffix.lower() in SUFFIXES else ".mp4")
            (source / name).symlink_to(path)
            writer.writerows([name, *row] for row in rows_of(path, options.data))
    begun = time.perf_counter()
    settings = RecordingsConfig(source="segments", path=str(source), copy_videos=False)
    read_recordings(settings, RecordingsInputs(), RecordingsOutputs(folders["recordings"], folders["truth"]))
    manifest = load_manifest(folders["recordings"])
    config = ClipsConfig(workers=2, report_recordings=200, max_clips=0)
    cut_clips(config, CutInputs(folders["recordings"]), CutOutputs(folders["group"]))
    clips = collect_clips(
        config, CollectInputs(folders["recordings"], (folders["group"],)), CollectOutputs(folders["clips"])
    )
    inputs = TrajectoriesInputs(folders["clips"], folders["recordings"], folders["truth"])
    written = synthesize_trajectories(TrajectoriesConfig(), inputs, TrajectoriesOutputs(folders["trajectories"]))
    seconds = time.perf_counter() - begun
    for name in ("clips", "trajectories"):
        verify_artifact(folders[name])
    print(f"{len(videos)} files, {len(manifest.recordings)} recordings, {seconds:.0f} s, artifacts verified")
    print("skipped by recordings:", *(f"\n  {item.path}: {item.reason}" for item in manifest.skipped))
    skipped = read_index(folders["clips"]).facts["skipped"]
    print("skipped by clips:", *(f"\n  {item['recording_id']}: {item['reason']}" for item in skipped))
    print(json.dumps({**clips.metrics, **written.metrics}, indent=1))
    print(clips.markdown, written.markdown, sep="\n")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"peak memory of a decoding process: {peak / 1024:.0f} MiB; output in {out}")


if __name__ == "__main__":
    main()

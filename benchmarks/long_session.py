"""A session of hours through the clip step: how much memory, how long.

    python benchmarks/long_session.py [--hours 2] [--width 448 --height 336] [--sampler entropy]

Renders a minute of the twin and lays it end to end without encoding again (by FFmpeg), with its annotation, as one test
and one training recording, so that both sliding and training windows are cut. Memory is the peak resident set of the
decoding process and of the step's own process; the index of two hours of a recording must not show in either.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
import time
from pathlib import Path


def lay_end_to_end(video: Path, times: int, target: Path) -> None:
    from components.shared.video.ffmpeg import find_ffmpeg

    listing = target.with_suffix(".txt")
    listing.write_text(f"file '{video}'\n" * times)
    command = [find_ffmpeg(), "-v", "error", "-y", "-f", "concat", "-safe", "0", "-i", str(listing), "-c", "copy"]
    subprocess.run([*command, str(target)], check=True)


def main() -> None:
    from components.data_synthesis.clips.config import ClipsConfig
    from components.data_synthesis.clips.cut import CutInputs, CutOutputs, cut_clips
    from components.data_synthesis.recordings.config import RecordingsConfig
    from components.data_synthesis.recordings.read import RecordingsInputs, RecordingsOutputs, read_recordings
    from components.shared.video.probe import probe
    from components.shared.work.manifest import load_manifest, save_manifest

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--width", type=int, default=448)
    parser.add_argument("--height", type=int, default=336)
    parser.add_argument("--sampler", default="entropy")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        recordings, truth, clips = root / "recordings", root / "truth", root / "clips"
        for folder in (recordings, truth, clips):
            folder.mkdir()
        twin = {"num_train_people": 1, "num_validation_people": 1, "num_test_people": 1, "train_session_s": 60}
        twin |= {"width": options.width, "height": options.height}
        settings = RecordingsConfig.model_validate({"twin": twin})
        read_recordings(settings, RecordingsInputs(), RecordingsOutputs(recordings, truth))
        manifest = load_manifest(recordings)
        minute = next(r for r in manifest.recordings if r.split == "train")
        times = round(options.hours * 3600 / minute.duration_s)
        long = recordings / "long.mp4"
        lay_end_to_end(recordings / minute.video, times, long)
        info = probe(long)
        period_s = info.duration_s / times
        segments = [
            segment.model_copy(
                update={"start_s": segment.start_s + k * period_s, "end_s": segment.end_s + k * period_s}
            )
            for k in range(times)
            for segment in minute.segments
        ]
        facts = {"video": "long.mp4", "num_frames": info.num_frames, "duration_s": info.duration_s}
        rows = [
            minute.model_copy(update={**facts, "segments": tuple(segments), "recording_id": split, "split": split})
            for split in ("train", "test")
        ]
        save_manifest(manifest.model_copy(update={"recordings": tuple(rows)}), recordings)
        print(
            f"{info.duration_s / 3600:.2f} hours, {info.num_frames} frames, {len(segments)} segments, twice", flush=True
        )
        config = ClipsConfig(sampler=options.sampler, report_recordings=0, workers=options.workers)  # type: ignore[arg-type]
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        report = cut_clips(config, CutInputs(recordings), CutOutputs(clips))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(report.markdown.strip(), {key: int(value) for key, value in report.metrics.items()})
        print(f"{time.perf_counter() - begun:.0f} s, {processor_s:.0f} s of processor time in the decoding processes")
        child, own = after.ru_maxrss / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak memory: the larger decoding process {child:.0f} MiB, the step itself {own:.0f} MiB")


if __name__ == "__main__":
    main()

"""How many of the twin's sliding windows have no clear answer, and how far a constant answer gets, by seed.

    python benchmarks/twin_windows.py [--seeds 30] [--duration-scale 0.33] [--lead-share 0.0625]

Reads the order of work alone, nothing is rendered: the scripts of the validation and test people are those that
`recordings` renders at that seed. The best constant is the segment that reaches tIoU 0.5 most often on clear windows
with a boundary, in hindsight over all seeds.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np

from components.shared.video.labelling import WindowLabel


def label_windows(seed: int, duration_scale: float, lead_share: float) -> list[WindowLabel | None]:
    """The labels of every sliding window of a twin, None where no scored label is in it."""
    from components.data_synthesis.clips.config import ClipsConfig
    from components.data_synthesis.recordings.config import TwinSection
    from components.data_synthesis.recordings.twin.appearance import draw_look
    from components.data_synthesis.recordings.twin.people import list_jobs
    from components.data_synthesis.recordings.twin.script import write_script
    from components.shared.video.labelling import Timeline
    from components.shared.video.windows import sliding_windows
    from components.shared.work.manifest import Segment
    from components.shared.work.operations import NAMES, NULL_ID

    twin, clips = TwinSection(duration_scale=duration_scale), ClipsConfig()
    found = []
    for job in list_jobs(twin):
        if job.split == "train":
            continue
        look = draw_look(twin, np.random.default_rng([seed, job.number]), light=1.0, speed=1.0)
        rng = np.random.default_rng([seed, job.number, int(job.session[1:])])
        steps = write_script(twin, rng, length_s=job.length_s, pace=look.pace)
        segments = [
            Segment(label=NAMES[s.operation], start_s=round(s.start_s, 3), end_s=round(s.end_s, 3), box=s.order)
            for s in steps
        ]
        timeline = Timeline(segments, NAMES[NULL_ID], job.length_s)
        windows = sliding_windows(round(job.length_s * clips.fps), clips.window_frames, clips.stride_s * clips.fps)
        found += [timeline.label_window(w.start / clips.fps, w.length / clips.fps, lead_share) for w in windows]
    return found


def best_constant(segments: np.ndarray) -> float:
    """Largest share of segments (n, 2) that one segment on a 0.1 s grid overlaps by half."""
    ticks = np.arange(0, segments.max() + 0.05, 0.1)
    starts, ends = (axis.ravel() for axis in np.meshgrid(ticks, ticks, indexing="ij"))
    starts, ends = starts[ends > starts], ends[ends > starts]
    hits = np.zeros(len(starts))
    for start, end in segments:
        overlap = np.clip(np.minimum(ends, end) - np.maximum(starts, start), 0, None)
        hits += overlap / (ends - starts + end - start - overlap) >= 0.5
    return float(hits.max() / len(segments))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--duration-scale", type=float, default=0.33)
    parser.add_argument("--lead-share", type=float, default=0.0625)
    options = parser.parse_args()
    shares, segments = [], []
    for seed in range(options.seeds):
        labels = label_windows(seed, options.duration_scale, options.lead_share)
        clear = [label for label in labels if label is not None and not label.ambiguous]
        shares.append(1 - len(clear) / len(labels))
        segments += [label.segment_s for label in clear if label.has_boundary]
    spread = statistics.stdev(shares) if len(shares) > 1 else 0.0
    print(f"{len(labels)} windows a seed; ambiguous: mean {statistics.mean(shares):.3f}, deviation {spread:.3f}")
    print("by seed:", " ".join(f"{share:.3f}" for share in shares))
    print(f"best constant's tIoU@0.5: {best_constant(np.array(segments)):.3f} of {len(segments)} boundary windows")


if __name__ == "__main__":
    main()

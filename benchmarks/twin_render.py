"""How fast the digital twin renders, encoding and annotation included.

    python benchmarks/twin_render.py [--width 640 --height 480] [--people 20] [--workers 2]

Frames a second of wall clock with all workers, and frames a second of processor time of the rendering processes: the
latter is what one core does.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path


def main() -> None:
    from components.data_synthesis.recordings.config import RecordingsConfig
    from components.data_synthesis.recordings.twin.source import render_twin

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    twin = {"num_train_people": options.people, "width": options.width, "height": options.height}
    twin |= {"num_validation_people": 1, "num_test_people": 1}
    config = RecordingsConfig.model_validate({"workers": options.workers, "twin": twin})
    with tempfile.TemporaryDirectory() as name:
        recordings, truth = Path(name) / "recordings", Path(name) / "truth"
        recordings.mkdir(), truth.mkdir()
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        made = render_twin(config, recordings, truth)
        wall_s, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        size = sum(path.stat().st_size for path in recordings.rglob("*.mp4"))
    frames = sum(recording.num_frames for recording in made)
    processor_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{options.width}x{options.height}: {frames} frames of {len(made)} people, {size / 1e6:.0f} MB")
    alone = frames / processor_s
    print(f"{frames / wall_s:.0f} frames/s with {options.workers} processes, {alone:.0f} a processor-second")


if __name__ == "__main__":
    main()

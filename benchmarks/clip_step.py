"""The clip step as a whole beside its parts: decoding, converting and encoding alone, of the same recordings.

    python benchmarks/clip_step.py [--people 60] [--width 448 --height 336] [--workers 2] [--rounds 3] [--lean]

Renders a small twin, then in turn: runs the step, decodes every frame of every recording, and converts (colour, the
policy's view) and encodes again all the pictures and sounds that the clips hold. Processor time is compared, so that
other work on the machine matters little; all fill all cores. The step cannot be cheaper than its parts together:
`of the slower` is the larger of decoding and encoding over the step, `of both` their sum over the step, `of all three`
the sum of the parts.
`--lean` leaves out sound, the sampler report and the examples page, which are neither of these.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np


def decode(path: str) -> tuple[int, float]:
    """(frames, seconds of processor time)."""
    from components.shared.video.normalise import normalised_frames

    begun = time.process_time()
    return sum(1 for _ in normalised_frames(Path(path))), time.process_time() - begun


def load(shards: list[str]) -> list[tuple[list[np.ndarray], np.ndarray, np.ndarray | None]]:
    """The pictures and sound to encode, each source frame once (as the step does)."""
    from components.shared.encoders.audio import decode_audio
    from components.shared.samples.clip_shards import read_shard_clips

    seen: set[bytes] = set()
    found = []
    for shard in shards:
        for clip in read_shard_clips(Path(shard)):
            fresh = [jpeg for jpeg in clip.source_jpegs if jpeg not in seen]
            seen.update(fresh)
            sources = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in fresh]
            strip = np.concatenate(list(clip.view_frames))
            sound = (decode_audio(clip.audio_flac) * 2**15).astype(np.int16) if clip.audio_flac else None
            found.append((sources, strip, sound))
    return found


def encode(shards: list[str]) -> tuple[float, float]:
    """Processor time of encoding the shards' contents again, and of converting them; loading them is not counted."""
    from components.shared.samples.jpeg import encode_bgr
    from components.shared.video.audio import encode_flac
    from components.shared.video.letterbox import Letterbox

    cv2.setNumThreads(1)
    content = load(shards)
    planar = [cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420) for sources, _, _ in content for picture in sources]
    view_size = content[0][1].shape[1]
    begun = time.process_time()
    for packed in planar:
        picture = cv2.cvtColor(packed, cv2.COLOR_YUV2BGR_I420)
        Letterbox(picture.shape[1], picture.shape[0], view_size).apply(picture)
    convert_s = time.process_time() - begun
    del planar
    begun = time.process_time()
    for sources, strip, sound in content:
        for picture in sources:
            encode_bgr(picture, quality=90, full_colour=False)  # the canary's at 75 in the step
        encode_bgr(strip, quality=95, full_colour=True)
        if sound is not None:
            encode_flac(sound)
    return time.process_time() - begun, convert_s


def spent() -> float:
    """Processor time of this process and of those it has waited for."""
    own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def main() -> None:
    from components.data_synthesis.clips.config import ClipsConfig
    from components.data_synthesis.clips.cut import CutInputs, CutOutputs, cut_clips
    from components.data_synthesis.recordings.config import RecordingsConfig
    from components.data_synthesis.recordings.read import RecordingsInputs, RecordingsOutputs, read_recordings
    from components.shared.work.manifest import load_manifest

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=60)
    parser.add_argument("--width", type=int, default=448)
    parser.add_argument("--height", type=int, default=336)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lean", action="store_true")
    options = parser.parse_args()
    twin = {"num_train_people": options.people, "num_validation_people": 2, "num_test_people": 4}
    twin |= {"width": options.width, "height": options.height}
    lean = {"audio": False, "report_recordings": 0, "num_examples": 0} if options.lean else {}
    config = ClipsConfig(workers=options.workers, max_shard_mb=20, **lean)
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(options.workers) as pool:
        root = Path(name)
        recordings, truth = root / "recordings", root / "truth"
        recordings.mkdir(), truth.mkdir()
        settings = RecordingsConfig.model_validate({"twin": twin})
        read_recordings(settings, RecordingsInputs(), RecordingsOutputs(recordings, truth))
        manifest = load_manifest(recordings)
        videos = [str(recordings / recording.video) for recording in manifest.recordings]
        rows = []
        for number in range(options.rounds):
            clips = root / f"clips-{number}"
            clips.mkdir()
            begun = spent()
            cut_clips(config, CutInputs(recordings), CutOutputs(clips))
            step_s = spent() - begun
            decoded = list(pool.map(decode, videos))
            frames, decode_s = sum(count for count, _ in decoded), sum(seconds for _, seconds in decoded)
            shards = sorted(map(str, clips.glob("*.tar")))
            parts = [shards[core :: options.workers] for core in range(options.workers)]
            encode_s, convert_s = (sum(times) for times in zip(*pool.map(encode, filter(None, parts)), strict=True))
            rows.append((step_s, decode_s, encode_s, convert_s))
            print(
                f"round {number}: step {step_s:.2f} s, decoding {decode_s:.2f} s, encoding {encode_s:.2f} s, "
                f"converting {convert_s:.2f} s",
                flush=True,
            )
        print(
            f"{len(videos)} recordings, {frames} frames, {frames / statistics.median(r[0] for r in rows):.0f} frames/s"
        )
        print(f"of the slower: {statistics.median(max(d, e) / s for s, d, e, _ in rows):.2f}")
        print(f"of both:       {statistics.median((d + e) / s for s, d, e, _ in rows):.2f}")
        print(f"of all three:  {statistics.median((d + e + c) / s for s, d, e, c in rows):.2f}")


if __name__ == "__main__":
    main()

"""Renders one recording: script, look, pictures, sound, mp4 and ground truth.

Guarantee: depends on the configuration, the seed and the person only; never on the process, the order or the clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from components.data_synthesis.recordings.config import ShiftSection, TwinSection
from components.data_synthesis.recordings.twin.appearance import DESIGN, Look, Point, draw_look
from components.data_synthesis.recordings.twin.draw import Bench, camera_matrix
from components.data_synthesis.recordings.twin.encode import Mp4
from components.data_synthesis.recordings.twin.gestures import GESTURES
from components.data_synthesis.recordings.twin.people import Job
from components.data_synthesis.recordings.twin.script import Step, write_script
from components.data_synthesis.recordings.twin.sound import sound_track
from components.data_synthesis.recordings.twin.tag import Tag, draw_tag, tag_patch
from components.data_synthesis.recordings.twin.truth import SceneTruth

_FOLLOW = 0.55
"""Share of the way to its target a hand goes in one frame at 25 fps: joins one operation's movement to the next."""
_NOISE_TILES = 6
_SOUND = 1
"""Gives sound random numbers of its own: pictures are the same with and without it."""


@dataclass(frozen=True)
class Rendered:
    """What a rendered recording consists of besides its file."""

    job: Job
    steps: tuple[Step, ...]
    num_frames: int


def video_path(job: Job) -> Path:
    """Place of a recording's mp4 in the tree."""
    return Path(job.user) / "kinect" / "color" / "videos" / f"{job.session}.mp4"


def render(job: Job, config: TwinSection, seed: int, recordings: Path, truth: Path) -> Rendered:
    """Render one recording into the tree and its ground truth beside it."""
    session = int(job.session[1:])
    shift = config.shift if job.split in config.shift.splits else ShiftSection()
    person_rng = np.random.default_rng([seed, job.number])
    rng = np.random.default_rng([seed, job.number, session])
    look = draw_look(config, person_rng, light=shift.light, speed=shift.speed)
    steps = write_script(config, rng, length_s=job.length_s, pace=look.pace)
    num_frames = round(job.length_s * config.fps)
    path = recordings / video_path(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    scene = SceneTruth(job.recording_id, config.width, config.height, config.fps)
    bench = Bench(look, rng, config.width, config.height)
    tags = _tags(steps, rng, config, scene)
    shifts = _Shifts(shift, person_rng, config, job.length_s)
    places = ((text, shifts.move(box, config)) for text, box in bench.texts)
    scene.labels = [{"text": text, "box": list(box) if box else None} for text, box in places]
    with Mp4(path, config, job.start) as movie:
        if config.audio:
            sound_rng = np.random.default_rng([seed, job.number, session, _SOUND])
            movie.sound(sound_track(steps, sound_rng, length_s=job.length_s, rate_hz=config.audio_rate_hz))
        _pictures(movie, bench, look, steps, tags, scene, shifts, rng, config, num_frames)
    scene.write(truth)
    return Rendered(job, tuple(steps), num_frames)


def _tags(steps: list[Step], rng: np.random.Generator, config: TwinSection, scene: SceneTruth) -> dict[int, Tag]:
    tags: dict[int, Tag] = {}
    for order in sorted({step.order for step in steps}):
        own = [step for step in steps if step.order == order]
        tags[order] = draw_tag(rng, config.width, config.height)
        scene.add_order(order, own[0].start_s, own[-1].end_s, tags[order])
    return tags


class _Shifts:
    """Camera and occlusion shifts of one recording; nothing when they are off."""

    def __init__(self, shift: ShiftSection, rng: np.random.Generator, config: TwinSection, length_s: float) -> None:
        self.matrix = camera_matrix(rng, shift.camera, config.width, config.height)
        self.passes: list[tuple[float, float]] = []
        total = shift.occlusion * length_s
        while total > 0:
            length = float(rng.uniform(0.4, 1.2))
            self.passes.append((float(rng.uniform(0, length_s)), length))
            total -= length

    def apply(self, pixels: np.ndarray, time_s: float) -> np.ndarray:
        """The picture as the shifted camera sees it."""
        if self.matrix is not None:
            size = (pixels.shape[1], pixels.shape[0])
            pixels = cv2.warpAffine(pixels, self.matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for start, length in self.passes:
            if start <= time_s < start + length:
                height, width = pixels.shape[:2]
                x = int(((time_s - start) / length * 1.6 - 0.3) * width)
                cv2.ellipse(pixels, (x, height // 2), (width // 7, int(height * 0.6)), 15, 0, 360, (38, 36, 40), -1)
        return pixels

    def move(self, box: tuple[int, int, int, int] | None, config: TwinSection) -> tuple[int, int, int, int] | None:
        """A pixel box as the shifted camera sees it."""
        if self.matrix is None or box is None:
            return box
        corners = np.array([[box[0], box[1], 1], [box[2], box[1], 1], [box[2], box[3], 1], [box[0], box[3], 1]])
        moved = corners @ self.matrix.T
        x0, y0 = np.clip(moved.min(0), 0, (config.width, config.height)).astype(int).tolist()
        x1, y1 = np.clip(moved.max(0), 0, (config.width, config.height)).astype(int).tolist()
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _pictures(
    movie: Mp4, bench: Bench, look: Look, steps: list[Step], tags: dict[int, Tag], scene: SceneTruth,
    shifts: _Shifts, rng: np.random.Generator, config: TwinSection, num_frames: int,
) -> None:  # fmt: skip
    wander = _wander(rng, num_frames, look.jitter)
    strength = round(config.camera_noise * 2)
    shape = (_NOISE_TILES, config.height, config.width)
    noise = rng.integers(0, strength + 1, shape, dtype=np.uint8) if strength else None
    patches = {order: tag_patch(tag) for order, tag in tags.items()}
    follow = 1 - (1 - _FOLLOW) ** (25 / config.fps)
    index, left, right = 0, look.points["rest_l"], look.points["rest_r"]
    for number in range(num_frames):
        time_s = number / config.fps
        while index + 1 < len(steps) and time_s >= steps[index].end_s - 1e-6:
            index += 1
        step = steps[index]
        phase = min(max((time_s - step.start_s) / (step.end_s - step.start_s), 0.0), 1.0)
        pose = GESTURES[step.operation](phase, look, step)
        first = follow if number else 1.0
        left = _follow(left, pose.left, wander[number, 0], first)
        right = _follow(right, pose.right, wander[number, 1], first)
        boxes = bench.paint(step, pose, left, right)
        pixels = shifts.apply(bench.canvas.pixels, time_s)
        tag, patch = tags[step.order], patches[step.order]
        x, y = tag.box[0] - tag.margin, tag.box[1] - tag.margin
        pixels[y : y + patch.shape[0], x : x + patch.shape[1]] = patch
        scene.add_frame({name: shifts.move(box, config) for name, box in boxes.items()})
        movie.picture(pixels, None if noise is None else noise[int(rng.integers(_NOISE_TILES))])


def _follow(now: Point, target: Point, offset: np.ndarray, share: float) -> Point:
    x = now[0] + (target[0] + float(offset[0]) - now[0]) * share
    y = now[1] + (target[1] + float(offset[1]) - now[1]) * share
    return min(max(x, 4.0), DESIGN[0] - 4.0), min(max(y, 4.0), DESIGN[1] - 4.0)


def _wander(rng: np.random.Generator, count: int, strength: float) -> np.ndarray:
    """Slow random offsets of both hands, (frames, 2 hands, 2), in design pixels."""
    steps = rng.normal(0, 1, (count + 12, 2, 2)).cumsum(axis=0)
    slow = steps[12:] - steps[:-12]
    return slow / np.sqrt(12) * strength

"""From an untrusted file to the frames a policy looks at; runs inside the sandbox, imports no torch.

Role: the two targets of `sandbox.run`. They use the very functions the clip step uses (grid of 25 frames a second,
sampler, letterbox, JPEG), so that a served window looks like a training window. Times are seconds from the window's
start.

    decode_video   one window (from `start_s`, else the most recent), or all windows of a recording (`hop_s`)
    decode_images  one or more images as a window: each is shown until the next one's time

Result: facts {"windows": [{"start_s", "padded_s", "samplings": [{"times_s", "frames"}]}], "duration_s"} and, for each
window, arrays: view frames uint8 (U, S, S, 3) of its U distinct frames, then U JPEGs at source resolution (at most
`max_side` pixels a side). `frames` index the U. A window shorter than asked for is filled with its last frame
(`padded_s` says how much).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from components.shared.runtime.errors import InputError
from components.shared.samples.jpeg import encode_jpeg
from components.shared.video.frame import Frame
from components.shared.video.letterbox import Letterbox
from components.shared.video.normalise import FPS, normalised_frames
from components.shared.video.probe import VideoInfo, probe
from components.shared.video.samplers import make_sampler, select_evenly
from components.ttrl.sandbox import Result

JPEG_QUALITY = 95
PLAYABLE = "Send a whole video that FFmpeg can read, such as an MP4 with H.264."
IMAGES = "Send whole JPEG or PNG images."
Request = dict[str, Any]


def decode_video(request: Request) -> Result:
    """Windows of a video.

    Args:
        request: path, window_s, num_frames, samplings, sampler, seed, view_size, max_side, max_pixels, max_duration_s;
            start_s (or None), hop_s (or None).

    Raises:
        InputError: not a video, damaged, too long, too many pixels, or nothing at `start_s`.
    """
    cv2.setNumThreads(1)
    try:
        return _decode_video(request)
    except InputError as error:  # the path is ours and says nothing to the caller
        text = error.message.replace(f"{Path(request['path']).name}: ", "the video: ")
        raise InputError(text, remedy=error.remedy or PLAYABLE) from None


def _decode_video(request: Request) -> Result:
    info = _checked(request)
    length = round(request["window_s"] * FPS)
    limit = round(request["max_duration_s"] * FPS)
    first = round((request.get("start_s") or 0.0) * FPS)
    hop = round(request["hop_s"] * FPS) if request.get("hop_s") else None
    recent: deque[Frame] = deque(maxlen=length)
    windows: list[dict[str, Any]] = []
    arrays: list[np.ndarray] = []
    count = taken = 0
    for frame in _frames(Path(request["path"]), info, limit):
        count += 1
        if count <= first:
            continue
        recent.append(frame)
        if hop is None and request.get("start_s") is not None and len(recent) == length:
            break
        if hop is not None and len(recent) == length and (count - first - length) % hop == 0:
            _take(list(recent), count - length, request, windows, arrays)
            taken = count
    if count <= first:
        raise InputError(
            f"start_s is {first / FPS:g} s but the video ends after {count / FPS:.2f} s, so there is no window.",
            remedy="Send an earlier start_s, or none for the most recent window.",
        )
    if hop is None or taken == 0:
        _take(list(recent), count - len(recent), request, windows, arrays)
    elif count - taken > 0:  # the recording's end, in a last whole window
        _take(list(recent), count - length, request, windows, arrays)
    return {"windows": windows, "duration_s": count / FPS}, arrays


def decode_images(request: Request) -> Result:
    """Images as one window.

    Args:
        request: paths, times_s (empty: spread evenly), window_s, num_frames, view_size, max_side, max_pixels.

    Raises:
        InputError: not an image, too many pixels, or times that do not fit.
    """
    cv2.setNumThreads(1)
    images = [_image(Path(path), number, request["max_pixels"]) for number, path in enumerate(request["paths"])]
    window_s, num_frames = request["window_s"], request["num_frames"]
    times = [float(time) for time in request["times_s"]]
    if times and (len(times) != len(images) or not all(b > a for a, b in pairwise(times))):
        raise InputError(
            f"times_s must be {len(images)} ascending seconds, one an image.",
            remedy="Leave it out to spread the images evenly.",
        )
    if times and not (times[0] >= 0 and times[-1] <= window_s):
        raise InputError(f"times_s must lie within 0 and {window_s:g} s.", remedy="Count them from the window's start.")
    if times and len(images) == num_frames:
        shown, at = list(range(num_frames)), times
    else:
        total = round(window_s * FPS)
        at = [index / FPS for index in select_evenly(total, num_frames).indices]
        begins = times or [n * window_s / len(images) for n in range(len(images))]
        shown = [max(0, int(np.searchsorted(begins, time + 1e-6, side="right")) - 1) for time in at]
    used = sorted(set(shown))
    window = {
        "start_s": 0.0,
        "padded_s": window_s if len(images) == 1 else 0.0,
        "samplings": [{"times_s": at, "frames": [used.index(n) for n in shown]}],
    }
    arrays = _pixels([images[n] for n in used], request)
    return {"windows": [window], "duration_s": window_s}, arrays


def jittered(total: int, num_frames: int, seed: int) -> tuple[int, ...]:
    """Evenly spaced frames, each inner one moved by up to 40 % of the spacing; first and last stay.

    The other frame samplings of one input: the same content, looked at a little differently.
    """
    even = select_evenly(total, num_frames).indices
    if len(even) < 3:
        return even
    rng = np.random.default_rng(seed)
    reach = 0.4 * (total - 1) / (len(even) - 1)
    moved = [round(index + rng.uniform(-reach, reach)) for index in even[1:-1]]
    return tuple(sorted({even[0], even[-1], *moved})) if len({*moved, even[0], even[-1]}) == len(even) else even


def _checked(request: Request) -> VideoInfo:
    info = probe(Path(request["path"]))
    if info.width * info.height > request["max_pixels"]:
        raise InputError(
            f"a picture of {info.width}x{info.height} is above {request['max_pixels']} pixels.",
            remedy="Send it smaller; ttrl.max_pixels sets the limit.",
        )
    if info.duration_s > request["max_duration_s"] + 0.5:
        raise too_long(request["max_duration_s"])
    return info


def too_long(limit_s: float) -> InputError:
    """The refusal of a long video."""
    return InputError(f"the video is longer than {limit_s:g} s.", remedy="Cut it, or ask POST /analyze for a timeline.")


def _frames(path: Path, info: VideoInfo, limit: int) -> Iterable[Frame]:
    """Grid frames, at most `limit`: the declared length may be a lie."""
    for count, frame in enumerate(normalised_frames(path, info=info), 1):
        if count > limit:
            raise too_long(limit / FPS)
        yield frame


def _take(
    frames: Sequence[Frame], first: int, request: Request, windows: list[dict[str, Any]], arrays: list[np.ndarray]
) -> None:
    """Sample one window and add its facts and arrays."""
    length = round(request["window_s"] * FPS)
    filled = [*frames, *[frames[-1]] * (length - len(frames))]
    sampler = make_sampler(request["sampler"])
    raw, previous = [], None
    for frame in filled:
        luma = frame.luma() if sampler.looks else np.zeros((1, 1), np.uint8)
        raw.append(sampler.measure(luma, previous))
        previous = luma
    chosen = [sampler.select(raw, request["num_frames"], fps=FPS).indices]
    for number in range(1, request["samplings"]):
        chosen.append(jittered(length, request["num_frames"], request["seed"] + number))
    used = sorted({index for indices in chosen for index in indices})
    position = {index: number for number, index in enumerate(used)}
    windows.append(
        {
            "start_s": first / FPS,
            "padded_s": (length - len(frames)) / FPS,
            "samplings": [
                {"times_s": [i / FPS for i in indices], "frames": [position[i] for i in indices]} for indices in chosen
            ],
        }
    )
    arrays += _pixels([cv2.cvtColor(filled[index].bgr(), cv2.COLOR_BGR2RGB) for index in used], request)


def _pixels(images: Sequence[np.ndarray], request: Request) -> list[np.ndarray]:
    """View frames stacked (U, S, S, 3), then one JPEG an image."""
    size, side = request["view_size"], request["max_side"]
    views, jpegs = [], []
    for image in images:
        height, width = image.shape[:2]
        views.append(Letterbox(width, height, size).apply(image))
        shrink = side / max(height, width)
        if shrink < 1:
            fitted = (max(1, round(width * shrink)), max(1, round(height * shrink)))
            image = cv2.resize(image, fitted, interpolation=cv2.INTER_AREA)  # noqa: PLW2901
        jpegs.append(np.frombuffer(encode_jpeg(image, quality=JPEG_QUALITY), np.uint8))
    return [np.stack(views), *jpegs]


def _image(path: Path, number: int, max_pixels: int) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as header:
            width, height = header.size
            kind = header.format
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise InputError(f"image {number} is not an image that can be read.", remedy=IMAGES) from None
    if width * height > max_pixels:
        raise InputError(
            f"image {number} has {width}x{height} pixels, above {max_pixels}.",
            remedy="Send it smaller; ttrl.max_pixels sets the limit.",
        )
    decoded = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if decoded is None or min(decoded.shape[:2]) < 1:
        raise InputError(f"image {number} ({kind}) is damaged or of a kind that is not taken.", remedy=IMAGES)
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)

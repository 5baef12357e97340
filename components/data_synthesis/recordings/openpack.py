"""Reader of the official OpenPack tree.

    <user>/annotation/openpack-operations/<session>.csv
    <user>/kinect/<camera>/videos/<session>.mp4                     a session video, or
    <user>/kinect/<camera>/frames/<session>/YYYY/MM/DD/HH/MM/*.jpg  frames named by their time

Users may lie anywhere below the given folder. Guarantees: every annotation row is read and every frame is listed with
its time; a broken row raises `InputError` with file and row; annotation without footage, footage without annotation
and an unreadable video are recorded skips; what is annotated outside the footage is cut off and counted. Gaps stay
unlabelled. Not guaranteed: that a session video knows its start: without creation_time it is skipped unless
`video_start=annotation` aligns its first frame with the first annotated operation.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from components.data_synthesis.recordings.config import RecordingsConfig
from components.data_synthesis.recordings.gathered import Gathered, Target
from components.data_synthesis.recordings.probe import UnreadableVideo
from components.data_synthesis.recordings.prober import Prober
from components.shared.runtime.artifacts import sha256_file
from components.shared.runtime.errors import InputError
from components.shared.runtime.progress import track
from components.shared.work.frames import frame_time, list_frames
from components.shared.work.manifest import Recording, Segment, Split
from components.shared.work.openpack_csv import OperationRow, read_operations
from components.shared.work.operations import LABELS, NAMES
from components.shared.work.people import assign_splits, person

_USER = re.compile(r"^U\d{4}$")
_SESSION_VIDEO = {".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v"}


@dataclass(frozen=True)
class _Footage:
    """One session's pictures: a video file or a folder of frames."""

    path: Path
    kind: str


@dataclass(frozen=True)
class _Span:
    """When footage begins and what it is."""

    start: datetime
    fps: float
    num_frames: int
    width: int
    height: int
    duration_s: float
    has_audio: bool


def read_openpack(config: RecordingsConfig, target: Target) -> Gathered:
    """Read an OpenPack tree into the artifact.

    Raises:
        InputError: no such folder, no OpenPack people in it, a wrong row, or a person on two sides of the split.
    """
    root = Path(config.path)
    if not root.is_dir():
        raise InputError(
            f"recordings.path = {root}: no such folder.", remedy="Give the folder that holds U0101, U0102, …"
        )
    sides = assign_splits(
        {"train": config.train_people, "validation": config.validation_people, "test": config.test_people}
    )
    users = _users(root)
    if not users:
        raise InputError(
            f"{root} holds no OpenPack people (folders U0101 … with annotation/ or kinect/).", remedy="Check the path."
        )
    gathered = Gathered(LABELS, facts={"rows_read": 0, "rows_outside": 0, "frames_listed": 0})
    work = [(user, session, *found) for user in users for session, found in _sessions(user).items()]
    _refuse_twice(root, [(user, session) for user, session, annotation, footage in work if annotation and footage])
    with Prober() as prober:
        for user, session, annotation, footage in track(work, "reading sessions", unit="sessions"):
            subject = person(user.name)
            side = sides.get(subject, config.other_people)
            if side == "skip":
                gathered.skip(_name(root, user, session), f"{user.name} is on no side of the split (other_people=skip)")
            elif annotation is None and footage is not None:
                gathered.skip(footage.path.relative_to(root).as_posix(), "footage without annotation", bad=True)
            elif annotation is not None:
                rows = read_operations(annotation)
                gathered.facts["rows_read"] += len(rows)
                if footage is None:
                    place = annotation.relative_to(root).as_posix()
                    gathered.skip(place, "annotation without video or frames", bad=True)
                    continue
                _add(config, prober, root, target, user, session, subject, side, annotation, rows, footage, gathered)
    return gathered


def _refuse_twice(root: Path, sessions: list[tuple[Path, str]]) -> None:
    """A user's session that lies in two folders would be written over itself."""
    first: dict[tuple[str, str], Path] = {}
    for user, session in sessions:
        other = first.setdefault((user.name, session), user)
        if other != user:
            raise InputError(
                f"{root}: session {session} of {user.name} lies in {other.relative_to(root)} and in "
                f"{user.relative_to(root)}; nobody can say which counts.",
                remedy="Remove one of them, or give a folder that holds one.",
            )


def _users(root: Path) -> list[Path]:
    found = {path.parent for name in ("annotation", "kinect") for path in root.rglob(name) if path.is_dir()}
    return sorted(path for path in found if _USER.match(path.name))


def _sessions(user: Path) -> dict[str, tuple[Path | None, _Footage | None]]:
    """Session -> (annotation, footage), either may be missing; a video is preferred to frames."""
    annotations = {path.stem: path for path in sorted((user / "annotation" / "openpack-operations").glob("*.csv"))}
    footage: dict[str, _Footage] = {}
    for folder in sorted(user.glob("kinect/*/frames/*")):
        if folder.is_dir():
            footage.setdefault(folder.name, _Footage(folder, "frames"))
    for path in sorted([*user.glob("kinect/*/videos/*"), *user.glob("kinect/*/*")]):
        if (
            path.is_file()
            and path.suffix.lower() in _SESSION_VIDEO
            and footage.get(path.stem, _Footage(path, "frames")).kind == "frames"
        ):
            footage[path.stem] = _Footage(path, "video")
    return {name: (annotations.get(name), footage.get(name)) for name in sorted({*annotations, *footage})}


def _name(root: Path, user: Path, session: str) -> str:
    return f"{user.relative_to(root).as_posix()}/{session}"


def _add(
    config: RecordingsConfig, prober: Prober, root: Path, target: Target, user: Path, session: str, subject: str,
    side: Split, annotation: Path, rows: list[OperationRow], footage: _Footage, gathered: Gathered,
) -> None:  # fmt: skip
    label = footage.path.relative_to(root).as_posix()
    try:
        if footage.kind == "frames":
            span = _frames_span(prober, footage.path)
        else:
            span = _video_span(config, prober, footage.path, rows)
    except UnreadableVideo as error:
        gathered.skip(label, str(error), bad=True)
        return
    segments = clip_rows(rows, span.start, span.duration_s)
    outside = len(rows) - len(segments)
    if footage.kind == "frames":
        gathered.facts["frames_listed"] += span.num_frames
    gathered.facts["rows_outside"] += outside
    if outside:
        reason = (
            f"{outside} of {len(rows)} annotated operations lie outside the footage "
            f"({span.start.isoformat(sep=' ')} and the {span.duration_s:.2f} s after it)"
        )
        gathered.skip(annotation.relative_to(root).as_posix(), reason)
    place, digest = _place(footage, target, f"{user.name}-{session}")
    gathered.recordings.append(
        Recording(
            recording_id=f"{user.name}-{session}",
            subject=subject,
            session=session,
            split=side,
            video=place,
            kind="frames" if footage.kind == "frames" else "video",
            fps=span.fps,
            num_frames=span.num_frames,
            width=span.width,
            height=span.height,
            duration_s=span.duration_s,
            has_audio=span.has_audio,
            sha256=digest,
            segments=segments,
        )
    )


def clip_rows(rows: Iterable[OperationRow], start: datetime, duration_s: float) -> tuple[Segment, ...]:
    """Rows as segments of footage that begins at `start`; parts outside are cut off, gaps stay."""
    segments = []
    for row in sorted(rows, key=lambda row: row.start):
        first = max((row.start - start).total_seconds(), 0.0)
        last = min((row.end - start).total_seconds(), duration_s)
        if last > first:
            segments.append(
                Segment(label=NAMES[row.operation], start_s=round(first, 6), end_s=round(last, 6), box=row.box)
            )
    return tuple(segments)


def _frames_span(prober: Prober, folder: Path) -> _Span:
    frames = list_frames(folder)
    try:
        width, height = prober.picture_size(frames[0][0])
    except UnreadableVideo as error:
        raise UnreadableVideo(f"its first frame cannot be used: {error}") from None
    last_s = frames[-1][1]
    step_s = last_s / (len(frames) - 1) if len(frames) > 1 else 1 / 15
    start = frame_time(frames[0][0])
    return _Span(start, round(1 / step_s, 4), len(frames), width, height, round(last_s + step_s, 6), has_audio=False)


def _video_span(config: RecordingsConfig, prober: Prober, path: Path, rows: list[OperationRow]) -> _Span:
    facts = prober.video(path)
    start = facts.start
    if start is None or config.video_start == "annotation":
        if config.video_start != "annotation":
            raise UnreadableVideo(
                "it has no creation_time, so its annotation cannot be laid over it; set video_start=annotation "
                "when its first frame is the first annotated moment"
            )
        start = min((row.start for row in rows), default=None)
        if start is None:
            raise UnreadableVideo("neither it nor its annotation gives a time")
    return _Span(start, facts.fps, facts.num_frames, facts.width, facts.height, facts.duration_s, facts.has_audio)


def _place(footage: _Footage, target: Target, name: str) -> tuple[str, str]:
    """Bring footage into the artifact (or not); a frames folder's digest is over its names and contents."""
    if footage.kind == "video":
        return target.place_video(footage.path, name + footage.path.suffix.lower())
    digest = hashlib.sha256()
    for path, _ in list_frames(footage.path):
        digest.update(f"{path.relative_to(footage.path).as_posix()}\0{sha256_file(path)}\n".encode())
    return target.place(footage.path, name), digest.hexdigest()

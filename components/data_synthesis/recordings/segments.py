"""Reader of a segments folder: videos and a `segments.csv` (video, label, start_s, end_s, optional subject and split).

Guarantees: every row is checked, the first wrong one raises `InputError` with file and row (the header is row 1); a row
without its video, a video without rows and an unreadable video are recorded skips; extra columns are ignored. Without
subjects the split is by video, by hash of the name, every side non-empty and, where the data allows, every label on
every side.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from components.data_synthesis.recordings.config import RecordingsConfig
from components.data_synthesis.recordings.gathered import Gathered, Target
from components.data_synthesis.recordings.probe import UnreadableVideo, VideoFacts
from components.data_synthesis.recordings.prober import Prober
from components.data_synthesis.recordings.split import Unit, split_units
from components.shared.runtime.errors import InputError
from components.shared.runtime.progress import track
from components.shared.work.manifest import Recording, Segment, Split

CSV = "segments.csv"
COLUMNS = ("video", "label", "start_s", "end_s")
SIDES: tuple[Split, ...] = ("train", "validation", "test")
VIDEO_SUFFIXES = {".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts"}


@dataclass
class _Row:
    number: int
    label: str
    start_s: float
    end_s: float


@dataclass
class _Video:
    name: str
    first_row: int
    subject: str
    split: str
    rows: list[_Row] = field(default_factory=list)


def read_segments(config: RecordingsConfig, target: Target) -> tuple[Gathered, bool]:
    """Read a segments folder into the artifact.

    Returns:
        The recordings, and whether the split is by person (False: by video).

    Raises:
        InputError: no such folder, no segments.csv, or a wrong row.
    """
    folder = Path(config.path)
    videos = _parse(folder / CSV)
    labels = tuple(dict.fromkeys(row.label for video in videos.values() for row in video.rows))
    gathered = Gathered(labels)
    gathered.facts["rows_read"] = sum(len(video.rows) for video in videos.values())
    found: list[tuple[_Video, Path, VideoFacts]] = []
    with Prober() as prober:
        for video in track(list(videos.values()), "reading videos", unit="videos"):
            path = _find(folder, video)
            if path is None:
                gathered.skip(video.name, "annotated, but the video is missing", row=video.first_row, bad=True)
                continue
            try:
                found.append((video, path, prober.video(path)))
            except UnreadableVideo as error:
                gathered.skip(video.name, str(error), row=video.first_row, bad=True)
    for path in _all_videos(folder):
        if not any(_find(folder, video) == path for video in videos.values()):
            gathered.skip(path.relative_to(folder).as_posix(), f"the video has no row in {CSV}")
    by_person = bool(found) and all(video.subject for video, _, _ in found)
    sides = {} if not found else _sides(config, folder, [video for video, _, _ in found], by_person)
    for (video, path, facts), recording_id in zip(found, _identifiers([video.name for video, _, _ in found])):
        side = sides[video.name]
        place, digest = target.place_video(path, recording_id + Path(_plain(video.name)).suffix)
        gathered.recordings.append(
            Recording(
                recording_id=recording_id,
                subject=video.subject or recording_id,
                session=recording_id,
                split=side,
                video=place,
                fps=facts.fps,
                num_frames=facts.num_frames,
                width=facts.width,
                height=facts.height,
                duration_s=facts.duration_s,
                has_audio=facts.has_audio,
                sha256=digest,
                segments=_within(video, facts, gathered),
            )
        )
    return gathered, by_person


def _within(video: _Video, facts: VideoFacts, gathered: Gathered) -> tuple[Segment, ...]:
    """The rows clipped to the footage; rows wholly outside are recorded skips."""
    segments = []
    for row in sorted(video.rows, key=lambda row: row.start_s):
        if row.start_s >= facts.duration_s:
            reason = f"{row.label} from {row.start_s:g} s lies behind the video's end at {facts.duration_s:g} s"
            gathered.skip(video.name, reason, row=row.number)
            gathered.facts["rows_outside"] = gathered.facts.get("rows_outside", 0) + 1
            continue
        segments.append(Segment(label=row.label, start_s=row.start_s, end_s=min(row.end_s, facts.duration_s)))
    return tuple(segments)


def _parse(path: Path) -> dict[str, _Video]:
    if not path.parent.is_dir():
        raise InputError(
            f"recordings.path = {path.parent}: no such folder.", remedy="Give a folder with videos and segments.csv."
        )
    if not path.is_file():
        raise InputError(f"{path.parent} has no {CSV}, so nothing says what its videos show.", remedy=f"Add {CSV}.")
    try:
        reader = csv.DictReader(StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}).", remedy="Save it as UTF-8.") from error
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
    if missing:
        raise InputError(
            f"{path}, row 1: column {', '.join(missing)} is missing.", remedy=f"Columns: {', '.join(COLUMNS)}."
        )
    videos: dict[str, _Video] = {}
    for number, cells in enumerate(reader, start=2):
        _add(path, number, {key: (value or "").strip() for key, value in cells.items() if isinstance(key, str)}, videos)
    if not videos:
        raise InputError(f"{path} has no rows.", remedy="Add one row a segment.")
    for video in videos.values():
        _refuse_overlap(path, video)
    return videos


def _add(path: Path, number: int, cells: dict[str, str], videos: dict[str, _Video]) -> None:
    where = f"{path}, row {number}"
    name, label = cells["video"], cells["label"]
    if not name or not label:
        raise InputError(f"{where}: {'video' if not name else 'label'} is empty.", remedy="Fill it in.")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"{where}: video {name!r} leads out of the folder.", remedy="Name files inside the folder.")
    split, subject = cells.get("split", ""), cells.get("subject", "")
    if split and split not in SIDES:
        raise InputError(f"{where}: split {split!r} is unknown.", remedy=f"Allowed: {', '.join(SIDES)}.")
    start, end = _seconds(cells["start_s"], where, "start_s"), _seconds(cells["end_s"], where, "end_s")
    if start < 0:
        raise InputError(f"{where}: start_s {start:g} is negative.", remedy="Times count from the video's first frame.")
    if end <= start:
        raise InputError(f"{where}: end_s {end:g} is not after start_s {start:g}.", remedy="Correct the row.")
    video = videos.setdefault(name, _Video(name, number, subject, split))
    for column, before, now in (("subject", video.subject, subject), ("split", video.split, split)):
        if before != now:
            raise InputError(
                f"{where}: {column} {now!r} of {name} differs from {before!r} in row {video.first_row}.",
                remedy=f"One {column} a video.",
            )
    video.rows.append(_Row(number, label, start, end))


def _seconds(text: str, where: str, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: {column} {text!r} is not a number of seconds.", remedy="Correct the row.")
    return value


def _refuse_overlap(path: Path, video: _Video) -> None:
    ordered = sorted(video.rows, key=lambda row: (row.start_s, row.end_s))
    for a, b in itertools.pairwise(ordered):
        if b.start_s < a.end_s - 1e-6:
            same = (a.start_s, a.end_s, a.label) == (b.start_s, b.end_s, b.label)
            raise InputError(
                f"{path}, row {b.number}: {b.label} from {b.start_s:g} s in {video.name} "
                f"{'is a duplicate of' if same else 'overlaps'} row {a.number} ({a.label} to {a.end_s:g} s).",
                remedy="Correct or remove one of the rows.",
            )


def _find(folder: Path, video: _Video) -> Path | None:
    for path in (folder / video.name, folder / "videos" / video.name):
        if path.is_file():
            return path
    return None


def _all_videos(folder: Path) -> list[Path]:
    places = (folder, folder / "videos")
    return sorted(
        p for place in places if place.is_dir() for p in place.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES
    )


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _identifiers(names: list[str]) -> list[str]:
    """A recording id for each video: its name without suffix, with a digest of all of it where another has the same."""
    stems = [Path(_plain(name)).stem for name in names]
    shared = Counter(stems)
    return [
        f"{stem}-{hashlib.sha256(name.encode()).hexdigest()[:8]}" if shared[stem] > 1 else stem
        for name, stem in zip(names, stems, strict=True)
    ]


def _sides(config: RecordingsConfig, folder: Path, videos: list[_Video], by_person: bool) -> dict[str, Split]:
    """Side of every video: the CSV's own, else by person or by video."""
    given = [video for video in videos if video.split]
    if given and len(given) < len(videos):
        lacking = next(video for video in videos if not video.split)
        raise InputError(
            f"{folder / CSV}, row {lacking.first_row}: {lacking.name} has no split, others have.",
            remedy="Give all or none.",
        )
    units: dict[str, Unit] = {}
    for video in videos:
        name = video.subject if by_person else video.name
        unit = units.setdefault(name, Unit(name, set(), []))
        unit.labels.update(row.label for row in video.rows)
        unit.members.append(video.name)
        if video.split and unit.side not in (None, video.split):
            raise InputError(
                f"{folder / CSV}, row {video.first_row}: {name} is on two sides of the split: "
                f"{unit.side} and {video.split}.",
                remedy="Put all videos of a person on one side.",
            )
        unit.side = video.split or None
    if given:
        return {member: unit.side for unit in units.values() for member in unit.members}  # type: ignore[misc]
    sides = split_units(list(units.values()), validation_share=config.validation_share, test_share=config.test_share)
    return {member: sides[unit.name] for unit in units.values() for member in unit.members}

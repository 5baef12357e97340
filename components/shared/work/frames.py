"""Recordings of kind "frames": a folder of pictures whose names are their times.

Format: any depth of folders below the session's, files `YYYYMMDD_HHMMSS_mmm.jpg` (or .jpeg, .png), local time of the
recording (+09:00 for OpenPack). The first frame is time 0; rates vary (about 15 Hz), so a frame's time comes from its
name, never from its number.
"""

from __future__ import annotations

import itertools
import re
from datetime import datetime, timedelta
from pathlib import Path

from components.shared.runtime.errors import InputError
from components.shared.work.openpack_csv import JST

_NAME = re.compile(r"^(\d{8})_(\d{6})_(\d{3})\.(jpg|jpeg|png)$", re.IGNORECASE)
_PICTURES = {".jpg", ".jpeg", ".png"}


def frame_time(path: Path) -> datetime:
    """Time of one frame, with zone.

    Raises:
        InputError: the name is not a time.
    """
    match = _NAME.match(path.name)
    if match is None:
        raise InputError(
            f"{path}: the file name is not YYYYMMDD_HHMMSS_mmm, so the frame has no time.",
            remedy="Rename or remove it.",
        )
    day, clock, milliseconds = match.group(1, 2, 3)
    try:
        moment = datetime.strptime(day + clock, "%Y%m%d%H%M%S").replace(tzinfo=JST)
    except ValueError:
        raise InputError(f"{path}: {day}_{clock} is no date and time.", remedy="Rename or remove it.") from None
    return moment + timedelta(milliseconds=int(milliseconds))


def list_frames(folder: Path) -> list[tuple[Path, float]]:
    """Every frame below a folder with its time in seconds from the first frame, ascending.

    Raises:
        InputError: no picture, a name that is no time, or two frames with one time.
    """
    timed = sorted((frame_time(path), path) for path in folder.rglob("*") if path.suffix.lower() in _PICTURES)
    if not timed:
        raise InputError(f"{folder} holds no frames (jpg, png).", remedy="Check the path of the session's frames.")
    for (before, first), (after, second) in itertools.pairwise(timed):
        if before == after:
            raise InputError(f"{second} and {first} have the same time.", remedy="Remove one of them.")
    start = timed[0][0]
    return [(path, (moment - start).total_seconds()) for moment, path in timed]

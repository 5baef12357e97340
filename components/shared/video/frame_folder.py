"""Recordings kept as a folder of timestamped frames (`.../YYYYMMDD_HHMMSS_mmm.jpg`, OpenPack's depth-camera tree).

The rate varies (about 15 Hz), so frames are placed by the time in their names: grid frame n shows the latest picture
not after n / fps (the first one until the second is due).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np

from components.shared.runtime.errors import InputError
from components.shared.video.frame import Frame, RepeatedFrame

STAMP = re.compile(r"(\d{8}_\d{6})_(\d{3})\.(?:jpg|jpeg|png)$", re.IGNORECASE)


class FileFrame:
    """A frame that is a picture file; read when asked for, the last colour picture kept."""

    def __init__(self, index: int, path: Path) -> None:
        self.index, self.path = index, path
        self._image: np.ndarray | None = None

    def luma(self) -> np.ndarray:
        """Brightness, uint8 (height, width)."""
        return cv2.cvtColor(self.bgr(), cv2.COLOR_BGR2GRAY)

    def bgr(self) -> np.ndarray:
        """Colour, uint8 (height, width, 3).

        Raises:
            InputError: the file is no picture.
        """
        if self._image is None:
            self._image = cv2.imread(str(self.path), cv2.IMREAD_COLOR)
            if self._image is None:
                raise InputError(f"{self.path.name}: is no picture that decodes; its recording cannot be used.")
        return self._image


def frame_files(folder: Path) -> list[tuple[float, Path]]:
    """Picture files under a folder with their seconds since the first, ascending.

    Raises:
        InputError: none carries a time in its name.
    """
    stamped = []
    for path in folder.rglob("*"):
        match = STAMP.search(path.name)
        if match:
            moment = datetime.strptime(match[1], "%Y%m%d_%H%M%S").timestamp() + int(match[2]) / 1000
            stamped.append((moment, path))
    if not stamped:
        raise InputError(f"{folder}: holds no frame named YYYYMMDD_HHMMSS_mmm.jpg, so it cannot be placed in time.")
    stamped.sort()
    return [(moment - stamped[0][0], path) for moment, path in stamped]


def folder_frames(folder: Path, *, fps: int) -> Iterator[Frame]:
    """Every grid frame of a folder of timestamped pictures, in order.

    Raises:
        InputError: no stamped picture, or one that does not decode.
    """
    files = frame_files(folder)
    total = round(files[-1][0] * fps) + 1
    position, current = 0, FileFrame(0, files[0][1])
    for index in range(total):
        while position + 1 < len(files) and files[position + 1][0] <= index / fps + 1e-6:
            position += 1
            current = FileFrame(index, files[position][1])
        yield RepeatedFrame(index, current)

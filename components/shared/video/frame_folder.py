"""Recordings kept as a folder of timestamped frames (`.../YYYYMMDD_HHMMSS_mmm.jpg`, OpenPack's depth-camera tree).

The rate varies (about 15 Hz), so frames are placed by the time in their names: grid frame n shows the latest picture
not after n / fps (the first one until the second is due).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from components.shared.video.frame import Frame, RepeatedFrame
from components.shared.video.picture import read_picture
from components.shared.work.frames import list_frames


class FileFrame:
    """A frame that is a picture file; read when asked for, and kept."""

    def __init__(self, index: int, path: Path) -> None:
        self.index, self.path = index, path
        self._image: np.ndarray | None = None

    def luma(self) -> np.ndarray:
        """Brightness, uint8 (height, width)."""
        return cv2.cvtColor(self.bgr(), cv2.COLOR_BGR2GRAY)

    def bgr(self) -> np.ndarray:
        """Colour, uint8 (height, width, 3).

        Raises:
            InputError: the file is no whole picture.
        """
        if self._image is None:
            self._image = read_picture(self.path)
        return self._image


def folder_frames(folder: Path, *, fps: int) -> Iterator[Frame]:
    """Every grid frame of a folder of timestamped pictures, in order.

    Raises:
        InputError: no stamped picture, or one that does not decode.
    """
    files = list_frames(folder)
    total = round(files[-1][1] * fps) + 1
    position, current = 0, FileFrame(0, files[0][0])
    for index in range(total):
        while position + 1 < len(files) and files[position + 1][1] <= index / fps + 1e-6:
            position += 1
            current = FileFrame(index, files[position][0])
        yield RepeatedFrame(index, current)

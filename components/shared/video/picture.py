"""Single pictures of untrusted origin: whole or not at all.

Pillow rather than OpenCV, which fills what a truncated JPEG lacks with grey and says nothing.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from components.shared.runtime.errors import InputError

MAX_PIXELS = 64_000_000
FORMATS = ("JPEG", "PNG")


def read_picture(path: Path) -> np.ndarray:
    """A JPEG or PNG file, upright, uint8 BGR (height, width, 3).

    Raises:
        InputError: missing, of another format, truncated, damaged or larger than 64 million pixels.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise InputError(f"{path.name}: {image.width}x{image.height} is above {MAX_PIXELS} pixels.")
                return np.ascontiguousarray(np.asarray(ImageOps.exif_transpose(image).convert("RGB"))[..., ::-1])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        reason = "no JPEG or PNG file" if "cannot identify" in str(error) else str(error).replace(str(path), path.name)
        raise InputError(f"{path.name}: is no whole picture ({reason}).") from error

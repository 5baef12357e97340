"""JPEG in and out, always RGB on our side."""

from __future__ import annotations

import cv2
import numpy as np

from components.shared.runtime.errors import ArtifactError


def encode_jpeg(image: np.ndarray, *, quality: int = 90, full_colour: bool = True) -> bytes:
    """Encode uint8 RGB (height, width, 3).

    Args:
        image: Pixels.
        quality: 1..100.
        full_colour: 4:4:4 (colour at full resolution: small coloured detail survives) or 4:2:0.
    """
    return encode_bgr(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality=quality, full_colour=full_colour)


def encode_bgr(image: np.ndarray, *, quality: int, full_colour: bool) -> bytes:
    """The same for pixels in OpenCV's order, uint8 BGR (height, width, 3)."""
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444 if full_colour else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    ok, encoded = cv2.imencode(".jpg", image, flags)
    assert ok
    return encoded.tobytes()


def decode_jpeg(data: bytes) -> np.ndarray:
    """Decode to uint8 RGB (height, width, 3).

    Raises:
        ArtifactError: the bytes are no picture.
    """
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if decoded is None:
        raise ArtifactError(f"{len(data)} bytes that should be a JPEG cannot be decoded.")
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)

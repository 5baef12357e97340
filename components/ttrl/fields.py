"""The text fields beside an upload: `times_s`, `start_s`, `store`. What is not understood is refused, not passed over.

Each raises `Refused` (422) that names the field, its value and what to send.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from components.ttrl.admission import Refused
from components.ttrl.uploads import Upload

LATEST_S = 1e6
"""Largest start_s: longer than any recording."""
YES = ("true", "1", "yes")
NO = ("false", "0", "no")


def times_of(upload: Upload) -> tuple[float, ...]:
    """When the images were taken, in seconds; empty where nothing is said."""
    text = upload.fields.get("times_s", "").strip()
    if not text:
        return ()
    if upload.videos:
        raise Refused(
            422,
            "times_s was sent with a video, whose frames have their own times; nothing was answered.",
            remedy="Leave it out, or choose the window with start_s.",
        )
    try:
        return tuple(float(value) for value in json.loads(text))
    except (ValueError, TypeError, RecursionError):
        raise Refused(
            422,
            f"times_s = {text[:80]!r} is not a JSON list of seconds; nothing was answered.",
            remedy="For example: [0, 0.5, 1].",
        ) from None


def start_of(upload: Upload) -> float | None:
    """Where the window starts in the video, in seconds; None takes the most recent one."""
    text = upload.fields.get("start_s", "").strip()
    if not text:
        return None
    if upload.images:
        raise Refused(
            422,
            "start_s was sent with images, and it chooses a video's window; nothing was answered.",
            remedy="Leave it out, or say with times_s when the images were taken.",
        )
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < LATEST_S:
        raise Refused(
            422,
            f"start_s = {text[:80]!r} is not a number of seconds from 0 on; nothing was answered.",
            remedy="For example: 2.5; without it the most recent window is taken.",
        )
    return value


def store_of(fields: Mapping[str, str]) -> bool:
    """Whether the question may be stored: yes where nothing is said; anything not understood may well have meant no."""
    value = fields.get("store", "true").strip().lower()
    if value not in YES and value not in NO:
        raise Refused(
            422,
            f"store = {value[:80]!r} is neither true nor false; nothing was answered or stored.",
            remedy="Send true, false, or leave it out.",
        )
    return value in YES

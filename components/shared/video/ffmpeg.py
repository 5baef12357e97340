"""Where FFmpeg is, how it opens a file, and what it said."""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

from components.shared.runtime.errors import EnvironmentFault

BRACKETS = re.compile(r"\[[^\]]*\] *")


@functools.cache
def find_ffmpeg() -> str:
    """Path of the FFmpeg binary: the system's where present, else the one the imageio-ffmpeg wheel carries.

    Raises:
        EnvironmentFault: neither is there.
    """
    system = shutil.which("ffmpeg")
    if system:
        return system
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise EnvironmentFault(
            f"no ffmpeg on the PATH and none from imageio-ffmpeg ({error}), so media cannot be normalised.",
            remedy="Install ffmpeg, or `pip install imageio-ffmpeg`.",
        ) from error


def input_arguments(path: Path) -> list[str]:
    """Arguments that open one local file and nothing else: no network, no playlists, one decoding thread."""
    return ["-protocol_whitelist", "file", "-threads", "1", "-i", f"file:{path}"]


def last_line(stderr: bytes) -> str:
    """The last thing FFmpeg said, short, without its memory addresses (messages must not differ between runs)."""
    lines = [line.strip() for line in BRACKETS.sub("", stderr.decode(errors="replace")).splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no message"

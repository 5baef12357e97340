"""Where FFmpeg is, and running it as a child that cannot hang or hide its reason."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path

from components.shared.runtime.errors import EnvironmentFault, InputError

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


def run_ffmpeg(arguments: list[str], *, what: Path, timeout_s: float) -> None:
    """Run FFmpeg to its end.

    Args:
        arguments: Everything after the common options.
        what: The media file, for error messages.
        timeout_s: Wall clock after which the child is killed.

    Raises:
        InputError: FFmpeg refused the media, or took too long; carries the end of its own message.
    """
    command = [find_ffmpeg(), "-nostdin", "-hide_banner", "-loglevel", "error", "-y", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"{what.name}: ffmpeg took more than {timeout_s:.0f} s and was stopped.") from None
    if done.returncode != 0:
        raise InputError(f"{what.name}: ffmpeg cannot read it ({last_line(done.stderr)}).")


def last_line(stderr: bytes) -> str:
    """The last thing FFmpeg said, short, without its memory addresses (messages must not differ between runs)."""
    lines = [line.strip() for line in BRACKETS.sub("", stderr.decode(errors="replace")).splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no message"

"""Opening a buffer whose section is not at hand: its dimension and adapter are in buffer.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from components.ttrl.buffer import layout
from components.ttrl.buffer.buffer import ExperienceBuffer
from components.ttrl.buffer.config import BufferConfig
from components.ttrl.buffer.errors import BufferDamagedError, BufferFormatError


def config_of(directory: Path, base: BufferConfig | None = None) -> BufferConfig:
    """The section a directory was made with, otherwise as `base`; nothing works in the background.

    Raises:
        BufferFormatError: not a buffer.
    """
    path = directory / layout.NAME
    if not path.exists():
        raise BufferFormatError(
            f"{directory} is not an experience buffer: {layout.NAME} is missing.",
            remedy="Name the buffer's own folder.",
        )
    identity = layout.read(path)
    layout.check_format(identity, directory)
    own = {"dimension": identity["dimension"], "adapter": identity["adapter"], "background": False}
    return (base or BufferConfig()).model_copy(update=own)


def view(directory: Path) -> ExperienceBuffer:
    """A read-only view of a buffer, alive or dead."""
    return ExperienceBuffer.open(directory, config_of(directory), read_only=True)


def refuse_lost(lost: Sequence[str], rest: str, left_out: Sequence[str] = ()) -> None:
    """Raise if not everything could be read.

    Args:
        lost: One line a record that could not be read.
        rest: What happened to the others.
        left_out: One line a place that opening the buffer could not read: what was there is not known.
    """
    counts = [f"{len(lost)} records cannot be read"] if lost else []
    counts += [f"{len(left_out)} damaged places were left out"] if left_out else []
    if counts:
        raise BufferDamagedError(
            f"{' and '.join(counts)}, {rest}. {[*lost, *left_out][0]}", remedy="Run `pixelis buffer verify`."
        )

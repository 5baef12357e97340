"""Opening a buffer whose section is not at hand: its dimension and adapter are in buffer.json."""

from __future__ import annotations

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


def refuse_lost(lost: list[str], rest: str) -> None:
    """Raise if some records could not be read; `rest` says what happened to the others."""
    if lost:
        raise BufferDamagedError(
            f"{len(lost)} records cannot be read, {rest}. {lost[0]}", remedy="Run `pixelis buffer verify`."
        )

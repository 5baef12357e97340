"""The one error hierarchy: every message names the thing, the value, the consequence and the remedy.

Guarantee: whatever a user can cause is a `PixelisError`; the command line prints it without a traceback and exits with
`exit_code`. Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations


class PixelisError(Exception):
    """Base of all expected failures.

    Args:
        message: What is wrong, with the offending thing and value, and what follows from it.
        remedy: What the reader can do about it, as an imperative sentence.
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class ConfigError(PixelisError, ValueError):
    """A configuration key or value that cannot be used; nothing has run."""

    exit_code = 2


class InputError(PixelisError, ValueError):
    """Data handed in by the user (folder, video, annotation row) that cannot be used."""

    exit_code = 3


class ArtifactError(PixelisError, ValueError):
    """An artifact that is missing, incomplete or not what its record says."""

    exit_code = 4


class EnvironmentFault(PixelisError, RuntimeError):
    """Something about this machine: a port taken, a disk full, a server down, a binary missing."""

    exit_code = 5


class StepError(PixelisError, RuntimeError):
    """A step that could not finish; carries the step's name and the end of its log."""

    exit_code = 6


class ModelNotReadyError(PixelisError, RuntimeError):
    """No usable model: the service answers 503, never an invented prediction."""

    exit_code = 7

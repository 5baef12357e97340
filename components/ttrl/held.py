"""What an operator holds back: learning, storing. It stays so across restarts and new models, until told otherwise.

A pause or a rollback answers harm that somebody saw; a pod that moves to another node must not end it.
"""

from __future__ import annotations

from pathlib import Path

from components.shared.runtime.artifacts import read_json, write_json
from components.shared.runtime.config import Section

HELD = "held.json"


class Held(Section):
    """The file `<state>/held.json`."""

    paused: bool = False
    """Nothing is learned."""
    read_only: bool = False
    """Nothing is stored."""


def load(state: Path) -> Held:
    """What is held in a state directory; nothing where nobody ever held anything.

    Raises:
        ArtifactError: the file is damaged.
    """
    path = state / HELD
    return Held.model_validate(read_json(path)) if path.exists() else Held()


def save(state: Path, held: Held) -> None:
    """Keep it."""
    write_json(state / HELD, held.model_dump(mode="json"))

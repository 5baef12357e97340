"""What several steps must share, whoever set it: a profile, `--set`, the environment or the run form's overrides."""

from __future__ import annotations

from collections.abc import Mapping

from components.shared.runtime.config import Section
from components.shared.runtime.errors import ConfigError


def check_agreement(sections: Mapping[str, Section]) -> None:
    """Refuse sections that disagree on what several steps must share.

    Args:
        sections: Every step's validated section by its name.

    Raises:
        ConfigError: steps that make, train on and serve the same calls have different `operations`.
    """
    found = {name: section.operations for name, section in sections.items() if hasattr(section, "operations")}
    names = sorted(found)
    different = [name for name in names if found[name] != found[names[0]]]
    if different:
        raise ConfigError(
            f"{', '.join(f'{name}.operations' for name in different)} differs from {names[0]}.operations: a policy "
            "would be served other pictures than it was trained on; nothing was run.",
            remedy=f"Set the same value in {', '.join(names)}.",
        )

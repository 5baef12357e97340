"""What every configuration section is made of, and its canonical form.

Role: a step's `config.py` derives its section from `Section`. A section is frozen, refuses unknown keys, and has one
canonical JSON form; the digest of that form is what caching, lineage and checkpoints compare.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.shared.runtime.errors import ConfigError

SHOWN = 200
"""Characters of a wrong value that an error repeats."""


class Section(BaseModel):
    """Base of all sections: immutable, no unknown keys, strict about types (an int is not a str)."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=False, use_attribute_docstrings=True, allow_inf_nan=False
    )

    def canonical(self) -> str:
        """The section as JSON with sorted keys and no spaces: equal sections give equal text."""
        return canonical_json(self.model_dump(mode="json"))

    def digest(self) -> str:
        """sha256 (hex) of the canonical form."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    @classmethod
    def parse(cls, text: str, *, name: str) -> Self:
        """Read a section from canonical JSON.

        Args:
            text: JSON object.
            name: The section's name in pipeline_config.yaml, used in error messages.

        Raises:
            ConfigError: not JSON, an unknown key, a wrong type or a value out of bounds; names every key.
        """
        try:
            return cls.model_validate(json.loads(text))
        except json.JSONDecodeError as error:
            raise ConfigError(f"section {name}: not JSON ({error}), so the step cannot start.") from error
        except ValidationError as error:
            raise ConfigError(
                describe(error, name), remedy="See pipeline_config.yaml for every key and its meaning."
            ) from error


class StepSection(Section):
    """What every step's section has besides its own keys; both are set for all steps by the `run` section."""

    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of every random generator the step uses."""
    deterministic: bool = False
    """Refuse algorithms whose result depends on scheduling (slower)."""
    code: str = ""
    """Digest of the step's source, filled by `configure`: changed code invalidates the step's cache."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; refuses NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def describe(error: ValidationError, name: str, *, consequence: str = "nothing was run") -> str:
    """One line a wrong key: its full name, the value given (cut where it is long), what is allowed, what follows."""
    lines = []
    for item in error.errors(include_url=False):
        key = ".".join(part for part in [name, *(str(part) for part in item["loc"])] if part)
        if item["type"] == "extra_forbidden":
            lines.append(f"{key} = {_shown(item['input'])}: no such key")
            continue
        message = item["msg"].removeprefix("Value error, ")
        # a whole section, or a text that is no JSON, says nothing
        told = not isinstance(item["input"], dict) and item["type"] != "json_invalid"
        given = f" = {_shown(item['input'])}" if told else ""
        lines.append(f"{key}{given}: {message[0].lower()}{message[1:]}")
    return "; ".join(lines) + f"; {consequence}."


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"

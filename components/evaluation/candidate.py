"""Which of base, SFT and RFT is put forward: RFT where it helped on validation, SFT otherwise.

The choice never looks at the test split: it is what the rft step found on the validation people and wrote beside its
adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.shared.runtime.artifacts import read_json

RESULT = "rft.json"
POLICIES = ("base", "sft", "rft")


@dataclass(frozen=True)
class Choice:
    """The policy put forward, and where the choice comes from."""

    name: str
    reason: str


def choose(rft: Path) -> Choice:
    """Read what the rft step found on validation people."""
    path = rft / RESULT
    if not path.is_file():
        return Choice(
            "sft", f"the rft artifact has no {RESULT}, so nothing says that reinforcement helped: SFT is the candidate"
        )
    found = read_json(path)
    said = str(found.get("reason", "no reason given"))
    if found.get("helped") is True:
        return Choice("rft", f"reinforcement helped on validation people ({said}): RFT is the candidate")
    return Choice("sft", f"reinforcement did not help on validation people ({said}): SFT is the candidate")

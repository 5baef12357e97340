"""Splits units (people or videos) that come without a side, the same way every time.

Guarantees: depends on names and labels only, not on their order; three units or more give three non-empty sides; where
enough units hold a label, every side gets it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from components.shared.runtime.errors import InputError
from components.shared.work.manifest import Split


@dataclass
class Unit:
    """What must stay on one side.

    Attributes:
        labels: Labels that occur in it.
        members: Its videos.
        side: The side its source gave it.
    """

    name: str
    labels: set[str]
    members: list[str]
    side: str | None = None


def split_units(units: list[Unit], *, validation_share: float, test_share: float) -> dict[str, Split]:
    """Unit name -> side.

    Raises:
        InputError: fewer than three units.
    """
    if len(units) < 3:
        raise InputError(
            f"{len(units)} usable video(s) or people cannot fill train, validation and test.",
            remedy="Give at least three, or a split column.",
        )
    free = sorted(units, key=lambda unit: hashlib.sha256(unit.name.encode()).hexdigest())
    sides: dict[str, Split] = {}
    shares: tuple[tuple[Split, float, int], ...] = (("test", test_share, 2), ("validation", validation_share, 1))
    for side, share, sides_left in shares:
        wanted = min(max(1, round(share * len(units))), len(free) - sides_left)
        for unit in _choose(free, wanted, sides_left):
            sides[unit.name] = side
            free.remove(unit)
    sides.update({unit.name: "train" for unit in free})
    return sides


def _choose(free: list[Unit], wanted: int, sides_left: int) -> list[Unit]:
    """Take `wanted` units: first those that bring a label still lacking (rarest label first), then in hash order."""
    holders = {label: [unit for unit in free if label in unit.labels] for unit in free for label in unit.labels}
    chosen: list[Unit] = []
    for label in sorted(holders, key=lambda label: (len(holders[label]), label)):
        if len(chosen) >= wanted or any(label in unit.labels for unit in chosen):
            continue
        if len(holders[label]) <= sides_left:
            continue
        candidate = next((unit for unit in holders[label] if _spares(free, chosen, unit, sides_left)), None)
        if candidate is not None:
            chosen.append(candidate)
    for unit in free:
        if len(chosen) >= wanted:
            break
        if unit not in chosen and _spares(free, chosen, unit, sides_left):
            chosen.append(unit)
    for unit in free:
        if len(chosen) >= wanted:
            break
        if unit not in chosen:
            chosen.append(unit)
    return chosen


def _spares(free: list[Unit], chosen: list[Unit], unit: Unit, sides_left: int) -> bool:
    """Whether the sides still to be filled keep each of the unit's labels when it is taken."""
    rest = [other for other in free if other is not unit and other not in chosen]
    return all(sum(label in other.labels for other in rest) >= sides_left for label in unit.labels)

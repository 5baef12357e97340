"""Who is who in OpenPack, and who is on which side of the split.

Five people appear under two ids; a split by id would put them on two sides. `person` resolves the alias,
`assign_splits` refuses anybody on two sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from components.shared.runtime.errors import InputError
from components.shared.work.manifest import Split

ALIASES: dict[str, str] = {"U0202": "U0105", "U0203": "U0108", "U0204": "U0110", "U0205": "U0107", "U0210": "U0103"}
"""Second id -> first id of the same person."""

DEFAULT_SPLIT: dict[Split, tuple[str, ...]] = {
    "train": ("U0101", "U0102", "U0103", "U0104", "U0105", "U0106"),
    "validation": ("U0107",),
    "test": ("U0108",),
}


def person(user: str) -> str:
    """The person behind an OpenPack user id."""
    return ALIASES.get(user, user)


def assign_splits(sides: Mapping[Split, Sequence[str]]) -> dict[str, Split]:
    """Person -> side, aliases resolved.

    Raises:
        InputError: one person on two sides, directly or through an alias.
    """
    assigned: dict[str, tuple[Split, str]] = {}
    for side, users in sides.items():
        for user in users:
            before = assigned.setdefault(person(user), (side, user))
            if before[0] != side:
                alias = f" ({before[1]} and {user} are one person)" if before[1] != user else ""
                raise InputError(
                    f"{user} is on two sides of the split: {before[0]} and {side}{alias}: results on {side} leak.",
                    remedy="Name each person on one side only.",
                )
    return {name: side for name, (side, _) in assigned.items()}


def refuse_leaks(subjects: Sequence[tuple[str, Split]]) -> None:
    """Check finished recordings, (subject, side) each.

    Raises:
        InputError: a subject with recordings on two sides.
    """
    known: dict[str, Split] = {}
    for subject, side in subjects:
        if known.setdefault(subject, side) != side:
            raise InputError(
                f"{subject} has recordings on two sides of the split: {known[subject]} and {side}.",
                remedy="Put all recordings of a person on one side.",
            )

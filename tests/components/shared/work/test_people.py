"""Aliases and split: one person, one side."""

import pytest

from components.shared.runtime.errors import InputError
from components.shared.work.people import ALIASES, DEFAULT_SPLIT, assign_splits, person, refuse_leaks


def test_the_five_aliases() -> None:
    assert {alias: person(alias) for alias in ALIASES} == {
        "U0202": "U0105", "U0203": "U0108", "U0204": "U0110", "U0205": "U0107", "U0210": "U0103",
    }  # fmt: skip
    assert person("U0101") == "U0101"


def test_default_split_covers_aliases() -> None:
    sides = assign_splits(DEFAULT_SPLIT)
    assert sides[person("U0203")] == "test"
    assert sides[person("U0205")] == "validation"
    assert sides[person("U0202")] == sides[person("U0210")] == "train"


@pytest.mark.parametrize("second", ["U0105", "U0202"])
def test_a_person_on_two_sides_is_an_error_also_through_an_alias(second: str) -> None:
    with pytest.raises(InputError, match=f"{second} is on two sides of the split: train and test"):
        assign_splits({"train": ["U0105"], "validation": [], "test": [second]})


def test_finished_recordings_are_checked_too() -> None:
    refuse_leaks([("a", "train"), ("b", "test"), ("a", "train")])
    with pytest.raises(InputError, match="a has recordings on two sides"):
        refuse_leaks([("a", "train"), ("a", "test")])

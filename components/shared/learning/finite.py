"""A training that has diverged ends with an error, not with weights that are no numbers."""

from __future__ import annotations

import math

from components.shared.runtime.errors import StepError


def check_finite(value: float, what: str, section: str) -> None:
    """Refuse a figure that is infinite or not a number, before the optimiser makes every weight so.

    Args:
        value: The same on every rank, so that all end together.
        what: Names it, as in "the loss of step 7".
        section: The step's section, for the remedy.

    Raises:
        StepError: the training has diverged.
    """
    if not math.isfinite(value):
        raise StepError(
            f"{what} is {value}: the training has diverged and was stopped; the last checkpoint is kept.",
            remedy=f"Lower {section}.learning_rate, or set {section}.dtype to one with a wider range than float16.",
        )

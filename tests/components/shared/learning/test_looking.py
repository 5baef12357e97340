from __future__ import annotations

from typing import Any

import pytest

from components.shared.learning.episode import CallRecord, Episode
from components.shared.learning.looking import saw_evidence


@pytest.mark.parametrize(
    "box, ok, seen",
    [
        ([250, 0, 500, 250], True, True),
        ([0, 0, 1000, 1000], True, True),
        ([0, 0, 250, 250], True, False),
        ([375, 0, 625, 250], True, False),
        ([250, 0, 500, 250], False, False),
        (None, True, False),
        ([250, 0, "500", 250], True, False),
    ],
)
def test_evidence_is_seen_only_by_a_crop_that_holds_it(make: Any, box: Any, ok: bool, seen: bool) -> None:
    question = make.question(evidence_box=(250, 0, 500, 250))
    look = CallRecord("ZOOM_IN", {"frame": 0, "box": box}, "", ok)
    assert saw_evidence(Episode(question, (), (), (), (look,), None, truncated=True, forced=False)) is seen

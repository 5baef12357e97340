"""Windows laid over each other."""

from components.ttrl.timeline import timeline


def answer(operation, start, end):
    return {"operation": operation, "start_s": start, "end_s": end, "next_operation": None}


def test_windows_are_joined_and_shifted_to_the_recordings_time():
    segments = timeline(
        [(0.0, answer("A", 0, 5), 1.0), (2.5, answer("A", 0, 4), 0.5), (5.0, answer("B", 2, 5), 1.0)], 9.0
    )
    assert segments == [
        {"operation": "A", "start_s": 0.0, "end_s": 6.5, "confidence": 1.0},
        {"operation": "B", "start_s": 7.0, "end_s": 9.0, "confidence": 1.0},
    ]


def test_the_larger_confidence_wins_where_windows_disagree():
    segments = timeline([(0.0, answer("A", 0, 3), 0.9), (0.0, answer("B", 2, 5), 0.3)], 5.0)
    assert [(s["operation"], s["start_s"], s["end_s"]) for s in segments] == [("A", 0.0, 3.0), ("B", 3.0, 5.0)]
    assert segments[0]["confidence"] < 1


def test_abstentions_leave_gaps():
    assert timeline([(0.0, None, 0.0), (2.5, {"value": "x"}, 1.0)], 5.0) == []
    assert timeline([], 0.0) == []

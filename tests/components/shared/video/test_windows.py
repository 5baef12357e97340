"""Windows are where they should be and labelled as the annotation says."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.video.labelling import Timeline
from components.shared.video.windows import sliding_windows, training_windows
from components.shared.work.manifest import Segment


def timeline(*rows: tuple[str, float, float], duration: float = 20.0) -> Timeline:
    return Timeline([Segment(label=label, start_s=a, end_s=b) for label, a, b in rows], "Null", duration)


WORK = (("A", 0, 3), ("B", 3, 7), ("Null", 7, 9), ("C", 9, 14), ("A", 14, 19))


@given(st.integers(1, 2000), st.integers(2, 200), st.floats(1, 200))
def test_sliding_windows_cover_everything_and_never_leave(num_frames: int, length: int, stride: float) -> None:
    windows = sliding_windows(num_frames, length, stride)
    assert windows[0].start == 0
    if num_frames >= length:
        assert all(0 <= w.start <= num_frames - length for w in windows)
        assert windows[-1].start + length == num_frames
    else:
        assert len(windows) == 1
    if 1.25 * stride <= length - 1:
        covered = {frame for w in windows for frame in range(w.start, w.start + w.length)}
        assert set(range(num_frames)) <= covered


def place(seed: int, accept=lambda window: True):  # type: ignore[no-untyped-def]
    return training_windows(
        timeline(*WORK), 500, 125, fps=25, offset_s=1.0, random_per_minute=12, accept=accept, rng=random.Random(seed)
    )


def test_training_windows_stand_around_boundaries() -> None:
    windows = [window for seed in range(30) for window in place(seed)]
    assert {window.kind for window in windows} == {"before", "across", "after", "random"}
    boundaries = timeline(*WORK).boundaries()
    assert boundaries == (3, 7, 9, 14, 19)
    for window in windows:
        start, end = window.start / 25, window.start / 25 + 5
        assert start >= 0
        assert end <= 20
        clamped = window.start in (0, 375)
        if window.kind == "before" and not clamped:
            assert min(abs(end - b) for b in boundaries) <= 1.02
        if window.kind == "after" and not clamped:
            assert min(abs(start - b) for b in boundaries) <= 1.02
        if window.kind == "across" and not clamped:
            assert any(start + 0.38 <= b <= end - 0.38 for b in boundaries)


def test_offsets_are_random_and_seeded() -> None:
    assert place(1) == place(1)
    assert len({window.start for seed in range(30) for window in place(seed)}) > 60


def test_windows_that_are_not_accepted_are_left_out() -> None:
    assert place(1, accept=lambda window: False) == []
    only = place(1, accept=lambda window: window.start < 100)
    assert only
    assert all(window.start < 100 for window in only)


@pytest.mark.parametrize(
    ("start", "operation", "segment", "following", "boundary", "lead"),
    [
        (0.0, "A", (0.0, 3.0), "B", True, 1.0),
        (2.5, "B", (0.5, 4.5), "C", True, 3.5),
        (6.0, "C", (3.0, 5.0), "A", True, 0.0),  # two seconds of C, two of Null: no lead
        (9.0, "C", (0.0, 5.0), "A", False, 5.0),
        (14.0, "A", (0.0, 5.0), None, False, 5.0),
    ],
)
def test_labels(
    start: float, operation: str, segment: tuple[float, float], following: str | None, boundary: bool, lead: float
) -> None:
    truth = timeline(*WORK).label_window(start, 5.0, 0.3)
    assert truth is not None
    assert (truth.operation, truth.segment_s, truth.next_operation) == (operation, segment, following)
    assert truth.has_boundary is boundary
    assert truth.lead_s == pytest.approx(lead)
    assert truth.ambiguous is (lead < 1.5)


def test_a_window_without_any_label_has_no_truth() -> None:
    assert timeline(("Null", 0, 20)).label_window(0, 5, 0.1) is None
    assert timeline(("A", 10, 12)).label_window(0, 5, 0.1) is None


def test_unlabelled_time_counts_against_the_lead() -> None:
    truth = timeline(("A", 3, 5)).label_window(0, 5, 0.0)
    assert truth is not None
    assert truth.ambiguous
    assert truth.lead_s == pytest.approx(-1.0)


def test_touching_segments_of_one_label_are_one_stretch() -> None:
    whole = timeline(("A", 0, 2), ("A", 2, 4), ("B", 4, 6), ("A", 6, 7))
    assert whole.boundaries() == (4, 6, 7)
    truth = whole.label_window(0, 7, 0.0)
    assert truth is not None
    assert truth.segment_s == (0, 4)
    assert truth.next_operation == "B"


def test_label_and_phase_at_a_moment() -> None:
    work = timeline(*WORK)
    assert work.at(1.5) == ("A", 0.5)
    assert work.at(3.0) == ("B", 0.0)
    assert work.at(8.0) == ("Null", 0.5)
    assert work.at(19.5) == ("", 0.0)


@given(st.permutations(WORK))
def test_order_of_rows_does_not_matter(rows: list[tuple[str, float, float]]) -> None:
    assert timeline(*rows).stretches == timeline(*WORK).stretches

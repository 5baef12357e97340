"""What a window shows: its operation, the operation's stretch, what comes next, and whether that is clear.

A window's operation is the scored label with most time in it; its segment is that label's longest stretch, clipped to
the window; `next` is the next differing scored label after that stretch, anywhere in the recording. A window is
`ambiguous` where the operation's time does not exceed that of the runner-up (another label, or unscored time) by a
configured share of the window: such windows have no clear answer and cap every model (MODELS.md).
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from components.shared.work.manifest import Segment

TOUCHING_S = 0.04
"""Segments of one label closer than a frame are one stretch."""


@dataclass(frozen=True)
class Stretch:
    """A maximal piece of a recording under one label."""

    label: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class WindowLabel:
    """The truth about a window; times in seconds from the window's start."""

    operation: str
    segment_s: tuple[float, float]
    next_operation: str | None
    has_boundary: bool
    ambiguous: bool
    lead_s: float
    """Time of the operation minus that of the runner-up."""


class Timeline:
    """A recording's annotation, ready for questions about any moment or window.

    Args:
        segments: Not overlapping (the reader of recordings refuses those); in any order.
        null_label: The label that is not scored.
        duration_s: Length of the recording.
    """

    def __init__(self, segments: Sequence[Segment], null_label: str | None, duration_s: float) -> None:
        self.null_label, self.duration_s = null_label, duration_s
        stretches: list[Stretch] = []
        for segment in sorted(segments, key=lambda item: item.start_s):
            end = min(segment.end_s, duration_s)
            if end <= segment.start_s:
                continue
            last = stretches[-1] if stretches else None
            if last and last.label == segment.label and segment.start_s - last.end_s <= TOUCHING_S:
                stretches[-1] = Stretch(last.label, last.start_s, end)
            else:
                stretches.append(Stretch(segment.label, segment.start_s, end))
        self.stretches = tuple(stretches)
        self._starts = [stretch.start_s for stretch in stretches]
        self._boundaries = self._find_boundaries()

    def at(self, time_s: float) -> tuple[str, float]:
        """Label under way at a moment and how far through its stretch it is (0..1); ('', 0.0) where there is none."""
        index = bisect.bisect_right(self._starts, time_s + 1e-9) - 1
        if index < 0 or time_s >= self.stretches[index].end_s:
            return "", 0.0
        stretch = self.stretches[index]
        return stretch.label, (time_s - stretch.start_s) / (stretch.end_s - stretch.start_s)

    def boundaries(self) -> tuple[float, ...]:
        """Moments at which the label changes, ascending; the recording's own start and end are none."""
        return self._boundaries

    def _find_boundaries(self) -> tuple[float, ...]:
        moments = {moment for stretch in self.stretches for moment in (stretch.start_s, stretch.end_s)}
        kept: list[float] = []
        for moment in sorted(moments):
            inside = TOUCHING_S < moment < self.duration_s - TOUCHING_S
            if inside and (not kept or moment - kept[-1] > TOUCHING_S):
                kept.append(moment)
        return tuple(kept)

    def label_window(self, start_s: float, duration_s: float, lead_share: float) -> WindowLabel | None:
        """The truth about [start_s, start_s + duration_s), None where no scored label is in it.

        Args:
            start_s: Window start in the recording.
            duration_s: Window length; what lies past the recording's end counts for nothing.
            lead_share: Lead, as a share of the window's part inside the recording, below which it is ambiguous.
        """
        end_s = min(start_s + duration_s, self.duration_s)
        earliest = max(bisect.bisect_right(self._starts, start_s) - 1, 0)
        inside = [
            (index, max(self.stretches[index].start_s, start_s), min(self.stretches[index].end_s, end_s))
            for index in range(earliest, bisect.bisect_left(self._starts, end_s))
            if self.stretches[index].end_s > start_s
        ]
        times: dict[str, float] = {}
        for index, first, last in inside:
            label = self.stretches[index].label
            if label != self.null_label:
                times[label] = times.get(label, 0.0) + last - first
        if not times:
            return None
        operation = max(times, key=lambda label: times[label])
        unscored = end_s - start_s - sum(times.values())
        runner_up = max([unscored, *(time for label, time in times.items() if label != operation)])
        lead = times[operation] - runner_up
        longest, first, last = max(
            (item for item in inside if self.stretches[item[0]].label == operation), key=lambda item: item[2] - item[1]
        )
        later = (self.stretches[index].label for index in range(longest + 1, len(self.stretches)))
        following = (label for label in later if label not in (operation, self.null_label))
        return WindowLabel(
            operation=operation,
            segment_s=(round(first - start_s, 3), round(last - start_s, 3)),
            next_operation=next(following, None),
            has_boundary=bisect.bisect_right(self._boundaries, start_s) < bisect.bisect_left(self._boundaries, end_s),
            ambiguous=lead < lead_share * (end_s - start_s) - 1e-9,
            lead_s=lead,
        )

"""One label a second from segments.

Two conventions. `second_rows` is the official file's: each whole unix second carries the operation that started last
before the second's end, also across gaps, from the first start's second to the last whole second before the end (the
sample's 861 rows come out equal, row by row). `labels_per_second` is for recordings of any source: the label with
most of that second, None in gaps.
"""

from __future__ import annotations

from collections.abc import Sequence

from components.shared.work.manifest import Segment
from components.shared.work.openpack_csv import OperationRow, SecondRow, unixtime_ms


def second_rows(rows: Sequence[OperationRow]) -> list[SecondRow]:
    """The official 1 Hz series of one session's operations."""
    if not rows:
        return []
    ordered = sorted(rows, key=lambda row: row.start)
    starts = [unixtime_ms(row.start) // 1000 for row in ordered]
    last = max(unixtime_ms(row.end) for row in ordered) // 1000
    series, index = [], 0
    for second in range(starts[0], max(last, starts[0] + 1)):
        while index + 1 < len(ordered) and starts[index + 1] <= second:
            index += 1
        row = ordered[index]
        series.append(SecondRow(second * 1000, row.user, row.session, row.box, row.operation))
    return series


def labels_per_second(segments: Sequence[Segment], duration_s: float) -> list[str | None]:
    """The label with most of each second of a recording, None where a second lies in a gap; earlier label wins ties."""
    series: list[str | None] = []
    ordered = sorted(segments, key=lambda segment: segment.start_s)
    first = 0
    for second in range(int(duration_s)):
        while first < len(ordered) and ordered[first].end_s <= second:
            first += 1
        shares: dict[str, float] = {}
        for segment in ordered[first:]:
            if segment.start_s >= second + 1:
                break
            overlap = min(segment.end_s, second + 1) - max(segment.start_s, second)
            if overlap > 0:
                shares[segment.label] = shares.get(segment.label, 0.0) + overlap
        series.append(max(shares, key=lambda label: shares[label]) if shares else None)
    return series

"""The order of work: how often one operation follows another."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from components.shared.work.manifest import Segment


def count_transitions(recordings: Iterable[Sequence[Segment]], *, null_label: str | None) -> dict[str, dict[str, int]]:
    """Counts of label -> next differing label over recordings; the null label is looked through.

    Args:
        recordings: Each recording's segments, in any order.
        null_label: Label that is skipped, None where there is none.

    Returns:
        Sorted by label, then by count (largest first), then by name.
    """
    counts: dict[str, dict[str, int]] = {}
    for segments in recordings:
        labels = [s.label for s in sorted(segments, key=lambda s: s.start_s) if s.label != null_label]
        for now, following in itertools.pairwise(labels):
            if now != following:
                row = counts.setdefault(now, {})
                row[following] = row.get(following, 0) + 1
    return {
        label: dict(sorted(counts[label].items(), key=lambda pair: (-pair[1], pair[0]))) for label in sorted(counts)
    }

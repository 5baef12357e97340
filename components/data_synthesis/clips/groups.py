"""The fan-out: which groups of recordings are cut side by side.

kfp's local runner gives every upstream value inside a ParallelFor the loop item's value, so an item carries all that a
group needs: its number, how many there are, and the section.
"""

from __future__ import annotations

import json
from pathlib import Path

from components.data_synthesis.clips.config import ClipsConfig
from components.shared.runtime.config import canonical_json
from components.shared.work.manifest import load_manifest


def plan_groups(section: str, recordings: Path) -> list[str]:
    """One loop item a group, never more groups than recordings.

    Args:
        section: The clips section as canonical JSON.
        recordings: The recordings artifact.

    Returns:
        JSON objects with `group`, `num_groups` and `section`.
    """
    config = ClipsConfig.parse(section, name="clips")
    count = max(1, min(config.num_groups, len(load_manifest(recordings).recordings)))
    return [canonical_json({"group": group, "num_groups": count, "section": section}) for group in range(count)]


def read_group(item: str) -> tuple[int, int, str]:
    """(group, num_groups, section) of a loop item."""
    value = json.loads(item)
    return value["group"], value["num_groups"], value["section"]

"""Disaster recovery, rehearsed: the volume is lost, a snapshot taken while the service ran is put in its place."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from components.ttrl.buffer import ExperienceBuffer


def test_a_snapshot_of_the_running_services_volume_gives_everything_acknowledged_by_then(
    tmp_path: Path, config: Any, make: Any
) -> None:
    """A volume snapshot is a copy at one moment, of an open buffer: nothing is closed, flushed or told beforehand."""
    volume, snapshot = tmp_path / "volume", tmp_path / "snapshot"
    buffer = ExperienceBuffer.open(volume, config)
    kept = [make(number) for number in range(40)]
    for item in kept[:20]:
        buffer.append(item)
    buffer.snapshot()
    for item in kept[20:]:
        buffer.append(item)
    removed = kept[3].id
    buffer.remove(removed)
    shutil.copytree(volume, snapshot)
    late = make(99)
    buffer.append(late)
    buffer.close()
    shutil.rmtree(volume)

    shutil.copytree(snapshot, volume)
    with ExperienceBuffer.open(volume, config) as restored:
        assert set(restored.ids()) == {item.id for item in kept} - {removed}
        for item in kept[4:]:
            assert restored.get(item.id).question == item.question
        assert restored.search_knn(kept[30].visual, 1)[0].id == kept[30].id
        assert late.id not in restored, "what came after the snapshot is lost, and only that"
        restored.append(make(100))
        assert len(restored) == 40

"""What a kill may leave of a reinforcement's work folder."""

from __future__ import annotations

import json
from pathlib import Path

from components.rft.checkpoint import _cut_rollouts


def test_a_cut_line_is_dropped_wherever_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    whole = [json.dumps({"step": step, "rewards": {"task": {"value": 1.0}}}) for step in range(3)]
    for length in range(len(whole[2])):
        path.write_text("\n".join([*whole[:2], whole[2][:length]]))
        _cut_rollouts(path, 5)
        assert path.read_text().splitlines() == whole[:2]
    _cut_rollouts(path, 1)
    assert path.read_text().splitlines() == whole[:1]

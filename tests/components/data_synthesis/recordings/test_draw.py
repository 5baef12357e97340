"""The boxes that the truth gets are those of what was painted."""

from __future__ import annotations

import numpy as np
import pytest

from components.data_synthesis.recordings.config import TwinSection
from components.data_synthesis.recordings.twin.appearance import draw_look
from components.data_synthesis.recordings.twin.draw import Bench
from components.data_synthesis.recordings.twin.gestures import GESTURES
from components.data_synthesis.recordings.twin.script import BenchState, Step


def painted(bench: Bench, step: Step, phase: float, left_out: str = "") -> tuple[np.ndarray, dict]:
    """A frame, without what one of the bench's methods paints; and the boxes."""
    pose = GESTURES[step.operation](phase, bench.look, step)
    pose.beam = None  # light, no part of the scanner
    if left_out:
        setattr(bench, left_out, lambda *_, **__: (0.0, 0.0))
    boxes = bench.paint(step, pose, pose.left, pose.right)
    if left_out:
        delattr(bench, left_out)
    return bench.canvas.pixels.copy(), boxes


@pytest.mark.parametrize(
    ("operation", "name", "method"),
    [
        (700, "scanner", "_tool"),
        (500, "tape", "_tool"),
        (1000, "pen", "_tool"),
        (300, "box", "_carton"),
        (400, "box", "_carton"),
        (500, "box", "_carton"),
        (900, "box", "_carton"),
    ],
)
def test_a_box_is_what_was_painted(operation: int, name: str, method: str) -> None:
    for seed in range(6):
        config = TwinSection(left_handed_share=seed % 2)
        look = draw_look(config, np.random.default_rng(seed))
        bench = Bench(look, np.random.default_rng(seed), 448, 336)
        for phase in (0.1, 0.5, 0.9):
            step = Step(operation, 0, 1, 1, BenchState(box="open" if operation in {400, 500} else "closed"), 0.3)
            picture, boxes = painted(bench, step, phase)
            rows, columns = np.nonzero((picture != painted(bench, step, phase, method)[0]).any(axis=2))
            if name != "box" and GESTURES[operation](phase, look, step).held != name:
                continue
            seen = np.zeros((336, 448), bool)
            seen[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
            told = np.zeros_like(seen)
            x0, y0, x1, y1 = boxes[name]
            told[y0:y1, x0:x1] = True
            assert (seen & told).sum() / (seen | told).sum() > 0.8, (seed, phase)

"""Grid cells, motion and the ablation measures, each against cases whose answer is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from components.data_synthesis.trajectories.evidence import (
    cell_box,
    cell_of,
    content_area,
    detail_gain,
    frames_hash,
    motion_cells,
    strongest_motion,
)
from components.data_synthesis.trajectories.questions import snap, snapped_segment
from components.data_synthesis.trajectories.stages import stage

VALUES = ("horizontal", "vertical", "diagonal", "checker")


def test_cells_are_multiples_of_250() -> None:
    assert cell_box(1, 0, 4) == (250, 0, 500, 250) and cell_box(3, 3, 4) == (750, 750, 1000, 1000)


@pytest.mark.parametrize(
    ("box", "cell"),
    [
        ((260, 10, 330, 90), (1, 0)),
        ((250, 0, 500, 250), (1, 0)),
        ((240, 10, 330, 90), None),
        ((960, 960, 1000, 1000), (3, 3)),
    ],
)
def test_a_box_lies_in_a_cell_or_straddles(box: tuple[float, ...], cell: tuple[int, int] | None) -> None:
    assert cell_of(box, 4) == cell


@pytest.mark.parametrize(
    ("width", "height", "area"), [(448, 336, (0, 7, 56, 49)), (336, 448, (7, 0, 49, 56)), (100, 100, (0, 0, 56, 56))]
)
def test_content_of_a_letterboxed_view(width: int, height: int, area: tuple[int, ...]) -> None:
    assert content_area(56, width, height) == area


@pytest.mark.parametrize("value", VALUES)
def test_a_tag_is_detail_only_the_source_has(value: str, kit: SimpleNamespace) -> None:
    frames = kit.render((1, 2), value, False, 0)
    box = (152 / 0.448, 192 / 0.336, 184 / 0.448, 224 / 0.336)
    assert detail_gain(frames[0], kit.view_of(frames[0]), box) > 10
    plain = kit.render((1, 2), None, False, 0)
    assert detail_gain(plain[0], kit.view_of(plain[0]), box) < 2


def test_motion_is_found_in_time_and_place(kit: SimpleNamespace) -> None:
    frames = kit.render((0, 0), None, False, 0)
    frames[6][200:230, 350:380] = 255
    view = np.stack([kit.view_of(frame) for frame in frames])
    frame, column, row, gain = strongest_motion(motion_cells(view, 448, 336, 4), 0, 15)
    assert frame == 6 and (column, row) == (3, 2) and gain > 8


def test_a_still_view_has_no_motion(kit: SimpleNamespace) -> None:
    view = np.stack([kit.view_of(frame) for frame in kit.render((0, 0), None, False, 0)])
    assert strongest_motion(motion_cells(view, 448, 336, 4), 0, 15)[3] == 0


def test_hash_is_equal_for_noise_and_differs_for_other_scenes(kit: SimpleNamespace) -> None:
    view = np.stack([kit.view_of(frame) for frame in kit.render((1, 1), "checker", True, 0)])
    noise = np.random.default_rng(0).integers(-1, 2, view.shape)
    noisy = (view.astype(int) + noise).clip(0, 255).astype(np.uint8)
    other = np.random.default_rng(1).integers(0, 255, view.shape, np.uint8)
    assert (frames_hash(view) ^ frames_hash(noisy)).bit_count() < 20
    assert (frames_hash(view) ^ frames_hash(other)).bit_count() > 50


def test_snapping() -> None:
    times = (0.0, 1.0, 2.0, 3.0)
    assert snap(1.4, times) == 1 and snap(1.5, times) == 1 and snap(9, times) == 3
    assert snapped_segment((0.9, 2.2), times) == (1.0, 2.0)
    assert snapped_segment((2.9, 3.0), times) == (2.0, 3.0), "never empty"
    assert snapped_segment((0.1, 0.2), times) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("score", "expected"), [(0.0, "simple"), (0.3, "intermediate"), (0.59, "intermediate"), (0.6, "complex")]
)
def test_stages(score: float, expected: str) -> None:
    assert stage(score, 0.3, 0.6) == expected

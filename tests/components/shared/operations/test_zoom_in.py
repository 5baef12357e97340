"""ZOOM_IN shows exactly the source pixels asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.shared.operations import TWIN_OPERATIONS, OperationsConfig, default_registry
from components.shared.operations.zoom_in import fit_square

PLAIN, TWIN = default_registry(OperationsConfig()), default_registry(TWIN_OPERATIONS)
FRAME = np.random.default_rng(0).integers(0, 255, (336, 448, 3), np.uint8)


@pytest.mark.parametrize("column", range(4))
@pytest.mark.parametrize("row", range(4))
def test_grid_cells_are_their_pixels_on_black(column: int, row: int) -> None:
    box = [250 * column, 250 * row, 250 * (column + 1), 250 * (row + 1)]
    result = TWIN.execute("ZOOM_IN", {"frame": 0, "box": box}, [FRAME])
    assert result.image is not None and result.image.shape == (112, 112, 3)
    assert np.array_equal(result.image[14:98], FRAME[84 * row : 84 * (row + 1), 112 * column : 112 * (column + 1)])
    assert not result.image[:14].any() and not result.image[98:].any()
    assert result.text == "frame 0, 112x84 px"


@settings(max_examples=80, deadline=None)
@given(
    x=st.integers(0, 800), y=st.integers(0, 800), width=st.integers(150, 1000), height=st.integers(150, 1000),
    padding=st.floats(0, 1),
)  # fmt: skip
def test_native_crops_equal_slicing_and_cover_the_region(
    x: int, y: int, width: int, height: int, padding: float
) -> None:
    box = [x, y, min(x + width, 1000), min(y + height, 1000)]
    arguments = {"frame": 0, "box": box, "padding": padding}
    result = PLAIN.execute("ZOOM_IN", arguments, [FRAME])
    assert result.ok, result.text
    x0, y0, x1, y1 = result.data["pixels"]
    assert np.array_equal(result.image, FRAME[y0:y1, x0:x1])  # type: ignore[arg-type]
    assert x0 <= box[0] * 0.448 and y0 <= box[1] * 0.336 and x1 >= box[2] * 0.448 - 1e-6 and y1 >= box[3] * 0.336 - 1e-6
    reach = (box[2] - box[0]) * padding * 0.448
    assert x0 >= box[0] * 0.448 - reach - 1 and x1 <= box[2] * 0.448 + reach + 1


def test_default_padding_adds_a_tenth_on_each_side() -> None:
    result = PLAIN.execute("ZOOM_IN", {"frame": 0, "box": [250, 250, 500, 500]}, [FRAME])
    assert result.data["pixels"] == [100, 75, 236, 177]


def test_point_and_factor_stay_inside_the_frame() -> None:
    arguments = {"frame": 0, "point": [990, 10], "factor": 4, "padding": 0}
    result = PLAIN.execute("ZOOM_IN", arguments, [FRAME])
    assert result.data["pixels"] == [336, 0, 448, 84]


@pytest.mark.parametrize(
    "arguments", [{}, {"box": [0, 0, 500, 500], "point": [5, 5]}, {"box": [0, 0, 9, 9], "factor": 2}]
)
def test_exactly_one_way_to_say_where(arguments: dict[str, object]) -> None:
    result = TWIN.execute("ZOOM_IN", {"frame": 0, **arguments}, [FRAME])
    assert result.error is not None and result.error.code == "invalid_arguments"


@pytest.mark.parametrize(("side", "ok"), [(28, False), (29, True)])
def test_crops_of_28_pixels_or_less_are_refused(side: int, ok: bool) -> None:
    frame = np.zeros((1000, 1000, 3), np.uint8)
    arguments = {"frame": 0, "box": [100, 100, 100 + side, 600], "padding": 0}
    assert TWIN.execute("ZOOM_IN", arguments, [frame]).ok is ok


def test_resize_stretches_and_letterbox_keeps_the_shape() -> None:
    wide = np.full((50, 100, 3), 200, np.uint8)
    assert (fit_square(wide, 112, "resize") == 200).all()
    boxed = fit_square(wide, 112, "letterbox")
    assert (boxed[28:84] == 200).all() and not boxed[:28].any() and not boxed[84:].any()

"""The two directions of the letterbox agree, and pictures land where the geometry says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.runtime.errors import InputError
from components.shared.video.letterbox import Letterbox

sides = st.integers(1, 2000)


@given(sides, sides, st.integers(1, 512), st.floats(0, 1000), st.floats(0, 1000))
def test_there_and_back(width: int, height: int, size: int, x: float, y: float) -> None:
    box = Letterbox(width, height, size)
    assert box.to_source(*box.to_view(x, y)) == pytest.approx((x, y), abs=1e-6)
    left, top = box.offset
    assert 0 <= left <= box.to_view(x, y)[0] <= size - left
    assert 0 <= top <= box.to_view(x, y)[1] <= size


def test_the_twin_frame_in_its_view() -> None:
    box = Letterbox(448, 336, 56)
    assert (box.fit, box.offset) == ((56, 42), (0, 7))
    assert box.box_to_view((250, 0, 500, 250)) == (14, 7, 28, 17.5)
    assert box.box_to_source((0, 0, 56, 56)) == (0, 0, 1000, 1000)


@pytest.mark.parametrize("shape", [(336, 448), (448, 336), (20, 30)])
def test_pixels_land_where_the_geometry_says(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 50, np.uint8)
    image[: shape[0] // 2, : shape[1] // 2] = 250
    box = Letterbox(shape[1], shape[0], 56)
    view = box.apply(image)
    assert view.shape == (56, 56, 3)
    x, y = box.to_view(250, 250)
    assert view[int(y), int(x)].tolist() == [250] * 3
    x, y = box.to_view(750, 750)
    assert view[int(y), int(x)].tolist() == [50] * 3
    left, top = box.offset
    assert not view[:top].any()
    assert not view[:, :left].any()


def test_an_empty_frame_is_refused() -> None:
    with pytest.raises(InputError, match="0x48"):
        Letterbox(0, 48, 56)

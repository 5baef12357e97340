"""Pictures land in the view where the letterbox's geometry says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.runtime.errors import InputError
from components.shared.video.letterbox import Letterbox

sides = st.integers(1, 2000)


@given(sides, sides, st.integers(1, 512))
def test_a_source_lies_within_its_view_and_touches_two_of_its_sides(width: int, height: int, size: int) -> None:
    box = Letterbox(width, height, size)
    (fit_width, fit_height), (left, top) = box.fit, box.offset
    assert max(fit_width, fit_height) == size and min(fit_width, fit_height) >= 1
    assert 0 <= left <= size - fit_width and 0 <= top <= size - fit_height


def test_the_twin_frame_in_its_view() -> None:
    box = Letterbox(448, 336, 56)
    assert (box.fit, box.offset) == ((56, 42), (0, 7))


@pytest.mark.parametrize("shape", [(336, 448), (448, 336), (20, 30)])
def test_pixels_land_where_the_geometry_says(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 50, np.uint8)
    image[: shape[0] // 2, : shape[1] // 2] = 250
    box = Letterbox(shape[1], shape[0], 56)
    view = box.apply(image)
    assert view.shape == (56, 56, 3)
    (width, height), (left, top) = box.fit, box.offset
    assert view[top + height // 4, left + width // 4].tolist() == [250] * 3
    assert view[top + height * 3 // 4, left + width * 3 // 4].tolist() == [50] * 3
    assert not view[:top].any()
    assert not view[:, :left].any()


def test_an_empty_frame_is_refused() -> None:
    with pytest.raises(InputError, match="0x48"):
        Letterbox(0, 48, 56)

"""The order tag: equal from afar, readable close up, also after H.264, and never covered."""

import json

import av
import cv2
import numpy as np
import pytest

from components.data_synthesis.recordings.twin.tag import VALUES, draw_tag, pattern, period_px, tag_patch
from components.shared.work.manifest import load_manifest


@pytest.mark.parametrize("period", [4, 8, 12])
@pytest.mark.parametrize("value", VALUES)
def test_every_block_has_the_same_mean(value: str, period: int) -> None:
    tile = pattern(value, period, 4 * period)
    for y in range(3 * period):
        for x in range(3 * period):
            assert tile[y : y + period, x : x + period].mean() == 0.5


def test_all_values_are_one_grey_at_an_eighth() -> None:
    views = []
    for value in VALUES:
        picture = np.full((336, 448), 90, np.uint8)
        picture[64:96, 112:144] = np.where(pattern(value, 8, 32), 200, 60)
        views.append(cv2.resize(picture, (56, 42), interpolation=cv2.INTER_AREA))
    for view in views[1:]:
        assert np.array_equal(view, views[0])


def test_tags_lie_whole_inside_one_cell_and_on_the_raster() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(600):
        tag = draw_tag(rng, 448, 336)
        x0, y0, x1, y1 = tag.box
        column, row = tag.cell
        assert column * 112 <= x0 - tag.margin
        assert x1 + tag.margin <= (column + 1) * 112
        assert row * 84 <= y0 - tag.margin
        assert y1 + tag.margin <= (row + 1) * 84
        assert x0 % 8 == y0 % 8 == 0
        assert (x1 - x0, y1 - y0) == (32, 32)
        assert tag_patch(tag).shape == (40, 40, 3)
        seen.add((tag.value, tag.cell))
    assert len(seen) == 64
    assert period_px(448) == 8


def read_tag(grey: np.ndarray) -> str:
    """Tell the value from pixels by gradients: stripes have gradients one way, a diagonal correlated both ways.

    Args:
        grey: Pattern's pixels (side, side), any numeric type.
    """
    values = grey.astype(np.float64)
    gy, gx = np.gradient(values)
    horizontal, vertical = float(np.abs(gy).mean()), float(np.abs(gx).mean())
    if horizontal > 2 * vertical:
        return "horizontal"
    if vertical > 2 * horizontal:
        return "vertical"
    product = float((gx * gy).mean())
    return "diagonal" if product > 0.25 * float((gx**2 + gy**2).mean()) else "checker"


def test_tags_survive_compression_and_are_flat_in_the_view(small_twin) -> None:
    outputs, _ = small_twin
    right = total = 0
    for recording in load_manifest(outputs.recordings).recordings:
        truth = json.loads((outputs.truth / f"{recording.recording_id}.json").read_text())
        with av.open(str(outputs.recordings / recording.video)) as container:
            frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
        for order in truth["orders"]:
            x0, y0, x1, y1 = order["tag"]["box"]
            first, last = round(order["start_s"] * 25), round(order["end_s"] * 25)
            for index in range(first, last, 7):
                right += read_tag(frames[index][y0:y1, x0:x1]) == order["tag"]["value"]
                total += 1
                view = cv2.resize(frames[index], (56, 42), interpolation=cv2.INTER_AREA)
                assert view[y0 // 8 : y1 // 8, x0 // 8 : x1 // 8].std() < 3
    assert total > 100
    assert right == total


def test_an_unknown_value_is_refused() -> None:
    with pytest.raises(ValueError, match="'dots' is no tag value"):
        pattern("dots", 8, 32)

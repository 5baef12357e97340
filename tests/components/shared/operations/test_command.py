"""What the command line's `operations` group does."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.shared.operations.command import list_rows, load_frames, run_operation, schemas_json
from components.shared.operations.drawing import close_view, draw_result, panel
from components.shared.operations.result import Drawing, OperationResult
from components.shared.runtime.errors import InputError


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    frame = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    cv2.imwrite(str(path), frame)
    return path


def test_list_names_every_operation_with_a_right_call() -> None:
    rows = list_rows()
    names = {row.name for row in rows}
    assert {"ZOOM_IN", "SEGMENT_OBJECT_AT", "GET_PROPERTIES", "READ_TEXT", "TRACK_OBJECT"} <= names
    assert all(json.loads(row.example) for row in rows)
    assert {item["name"] for item in json.loads(schemas_json())} == names


def test_run_saves_the_drawing(picture: Path, tmp_path: Path) -> None:
    output = tmp_path / "drawn" / "zoom.png"
    result = run_operation("ZOOM_IN", [picture], '{"box": [0, 0, 500, 500], "padding": 0}', output)
    assert result.ok and result.image is not None and result.image.shape == (60, 80, 3)
    drawn = cv2.imread(str(output))
    assert drawn.shape[0] >= 360 and drawn.shape[1] == 960, "frame and crop side by side"


@pytest.mark.parametrize("arguments", ["{", "[]", '{"box": [0, 0, 1, 1]}'])
def test_a_wrong_call_gives_the_policys_error_and_no_drawing(picture: Path, tmp_path: Path, arguments: str) -> None:
    result = run_operation("ZOOM_IN", [picture], arguments, tmp_path / "no.png")
    assert not result.ok and result.text.startswith("error ") and not (tmp_path / "no.png").exists()


@pytest.mark.parametrize(
    ("name", "content"), [("absent.jpg", None), ("text.jpg", b"not a picture"), ("empty.jpg", b"")]
)
def test_unreadable_pictures_are_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        load_frames([tmp_path / name])


@pytest.mark.parametrize("name", ["out.nonsense", "out"])
def test_an_output_that_cannot_be_written(picture: Path, tmp_path: Path, name: str) -> None:
    if name == "out":
        (tmp_path / "file").write_text("in the way")
        output = tmp_path / "file" / "out.png"
    else:
        output = tmp_path / name
    with pytest.raises(InputError, match="out"):
        run_operation("ZOOM_IN", [picture], '{"box": [0, 0, 1000, 1000]}', output)


def test_drawing_changes_only_a_copy() -> None:
    frame = np.zeros((40, 60, 3), np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[10:20, 10:20] = True
    drawn = panel(frame, [Drawing(0, (10, 10, 20, 20), mask)], 60, 40)
    assert not frame.any() and drawn[15, 15].any() and not drawn[35, 55].any()


def test_what_is_small_is_also_shown_closer() -> None:
    frame = np.zeros((480, 640, 3), np.uint8)
    frame[100:120, 300:330] = 255
    small, large = Drawing(0, (300, 100, 330, 120)), Drawing(0, (0, 0, 640, 300))
    view = close_view(frame, [small])
    assert view is not None and view[0] <= 300 < 330 <= view[2] and view[1] <= 100 < 120 <= view[3]
    assert close_view(frame, [large]) is None and close_view(frame, []) is None
    widths = [
        draw_result([frame], OperationResult(True, drawings=(item,)), width=200).shape[1] for item in (small, large)
    ]
    assert widths == [400, 200]


@pytest.mark.parametrize("box", [(0, 0, 5, 5), (635, 475, 640, 480), (0, 0, 640, 480)])
def test_labels_stay_inside_the_picture(box: tuple[int, int, int, int]) -> None:
    frame = np.zeros((480, 640, 3), np.uint8)
    with_label, without = (panel(frame, [Drawing(0, box, label=text)], 320, 240) for text in ("a long label", ""))
    assert with_label.shape == without.shape
    assert (with_label != without).any(axis=2).sum() > 300, "the plate is whole"

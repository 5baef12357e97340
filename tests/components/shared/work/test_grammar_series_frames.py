"""Order of work, series per second, frames named by their time."""

from pathlib import Path

import pytest

from components.shared.runtime.errors import InputError
from components.shared.work.frames import frame_time, list_frames
from components.shared.work.grammar import count_transitions
from components.shared.work.manifest import Segment
from components.shared.work.series import labels_per_second


def segments(*parts: tuple[str, float, float]) -> list[Segment]:
    return [Segment(label=label, start_s=start, end_s=end) for label, start, end in parts]


def test_transitions_look_through_null_and_repeats() -> None:
    one = segments(("a", 0, 1), ("Null", 1, 2), ("b", 2, 3), ("b", 3, 4), ("a", 4, 5))
    two = segments(("b", 5, 6), ("a", 0, 5))
    counts = count_transitions([one, two], null_label="Null")
    assert counts == {"a": {"b": 2}, "b": {"a": 1}}


def test_labels_per_second_take_the_larger_part_and_leave_gaps_open() -> None:
    parts = segments(("a", 0.0, 1.4), ("b", 1.4, 2.0), ("c", 3.2, 4.5))
    assert labels_per_second(parts, 4.9) == ["a", "b", None, "c"]


def test_frames_come_in_time_order_with_their_times(tmp_path: Path) -> None:
    names = ["14/59/20220329_145959_900.jpg", "15/00/20220329_150000_033.jpg", "14/59/20220329_145959_833.JPG"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    listed = list_frames(tmp_path)
    assert [round(time, 3) for _, time in listed] == [0.0, 0.067, 0.2]
    assert listed[0][0].name == "20220329_145959_833.JPG"
    assert frame_time(listed[0][0]).isoformat() == "2022-03-29T14:59:59.833000+09:00"


@pytest.mark.parametrize("name", ["frame_0001.jpg", "20221329_145959_900.jpg"])
def test_a_frame_without_a_time_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=name):
        list_frames(tmp_path)


def test_no_frames_and_double_frames(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no frames"):
        list_frames(tmp_path)
    (tmp_path / "20220329_145959_900.jpg").touch()
    (tmp_path / "20220329_145959_900.png").touch()
    with pytest.raises(InputError, match="the same time"):
        list_frames(tmp_path)

"""Looking by other operations than a crop, and other details than the tag."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from components.data_synthesis.trajectories.config import TrajectoriesConfig
from components.data_synthesis.trajectories.draft import Draft
from components.data_synthesis.trajectories.evidence import around, moving_box, overlaps
from components.data_synthesis.trajectories.looks import NOT_FOUND, Looks
from components.data_synthesis.trajectories.synthesize import synthesize_trajectories
from components.data_synthesis.trajectories.truth import TOOLS, RecordingTruth
from components.shared.operations import default_registry
from components.shared.runtime.errors import ConfigError
from components.shared.samples import ClipMeta, Question, read_clips, read_questions, read_trajectories

CELL = (500, 250, 750, 500)
"""Where the hand of `kit.render` moves: from (250, 110) by (4, 2) pixels a frame."""


@pytest.fixture
def frames(kit: SimpleNamespace) -> list[np.ndarray]:
    return kit.render((0, 0), None, True, 0)


@pytest.fixture
def draft() -> Draft:
    question = Question(question_id="q", clip_id="c", split="train", kind="operation", text="?", truth={})
    return Draft("c", question, "evidence")


def looks(frames: list[np.ndarray], **changes: object) -> Looks:
    config = TrajectoriesConfig.model_validate(changes)
    return Looks(frames, config, default_registry(config.operations))


def hand(index: int) -> tuple[float, float]:
    return (250 + 4 * index) * 1000 / 448, (110 + 2 * index) * 1000 / 336


def test_what_moves_is_found_where_it_moves(frames: list[np.ndarray]) -> None:
    box = moving_box(frames[6], frames[5], CELL)
    assert box is not None
    x, y = hand(5)
    assert box[0] < x < box[2] and box[1] < y < box[3]
    assert box[2] - box[0] < 150 and box[3] - box[1] < 180
    assert moving_box(frames[5], frames[5], CELL) is None


def test_description_segments_what_moves_and_measures_what_was_found(frames: list[np.ndarray], draft: Draft) -> None:
    looks(frames).describe(draft, 5, CELL, "motion")
    first, second = draft.turns
    assert (first.call.name, second.call.name) == ("SEGMENT_OBJECT_AT", "GET_PROPERTIES")  # type: ignore[union-attr]
    box = second.call.arguments["box"]  # type: ignore[union-attr]
    assert str(box) in first.result.text, "the second call's box is what the first one returned"  # type: ignore[union-attr]
    x, y = hand(5)
    assert box[0] < x < box[2] and box[1] < y < box[3]
    assert draft.failed == "" and all(turn.result.ok for turn in draft.turns)  # type: ignore[union-attr]


def test_a_track_follows_the_hand_and_its_travel_is_its_support(frames: list[np.ndarray], draft: Draft) -> None:
    support = looks(frames).track(draft, 2, CELL, 14, "motion")
    turn = draft.turns[0]
    assert turn.call is not None and turn.result is not None
    assert (turn.call.name, turn.call.arguments["to"]) == ("TRACK_OBJECT", 14)
    end = [int(v) for v in turn.result.text.split("[")[1].rstrip("]").split(",")]
    assert abs((end[0] + end[2]) / 2 - hand(14)[0]) < 30
    assert support == pytest.approx((hand(14)[0] - hand(2)[0]) / 40, rel=0.3)
    back = looks(frames).track(draft, 14, CELL, 2, "motion")
    assert back == pytest.approx(support, rel=0.3), "backwards as well"
    assert looks(frames, track_travel=900).track(draft, 2, CELL, 14, "motion") < 1


def test_nothing_that_moves_is_a_rejection_and_no_invention(kit: SimpleNamespace, draft: Draft) -> None:
    still = kit.render((0, 0), None, False, 0)
    looks(still).describe(draft, 5, CELL, "motion")
    assert draft.failed == NOT_FOUND and not draft.turns
    assert looks(still).track(draft, 5, CELL, 14, "motion") == 0.0


def test_reading_supports_only_what_was_really_read(draft: Draft) -> None:
    pytest.importorskip("rapidocr_onnxruntime")
    frame = np.full((336, 448, 3), 120, np.uint8)
    cv2.rectangle(frame, (180, 40), (290, 90), (235, 235, 235), -1)
    cv2.putText(frame, "B42", (190, 80), cv2.FONT_HERSHEY_SIMPLEX, 1.3, (20, 20, 20), 3, cv2.LINE_AA)
    box = around((400, 119, 650, 268), 90)
    assert looks([frame]).read(draft, 0, box, "look", "B42") == 1.0
    assert looks([frame]).read(draft, 0, box, "look", "B43") == 0.0
    assert "B42" in draft.turns[0].result.text  # type: ignore[union-attr]


def meta_of(**changes: Any) -> ClipMeta:
    times = (0.0, 1.0, 2.0, 3.0)
    return ClipMeta(
        clip_id="c", recording_id="r", subject="s", session="1", split="train", window="across", start_s=2.0,
        duration_s=4.0, frame_times_s=times, frame_labels=("A",) * 4, frame_phases=(0.5,) * 4, operation="A",
        segment_s=(0.0, 4.0), next_operation=None, has_boundary=False, sampler="uniform", provenance="synthetic",
    ).model_copy(update=changes)  # fmt: skip


def truth_of(folder: Path, *, hand_over: range = range(0), pen_y: int = 300) -> RecordingTruth:
    """One label at (100, 20) px; a hand over it in some frames; three tools at rest, the pen at a height."""
    hands = [[90, 10, 150, 60] if frame in hand_over else [300, 200, 330, 230] for frame in range(200)]
    rest = {"scanner": 100, "tape": 150, "pen": pen_y}
    value = {
        "width": 448, "height": 336, "fps": 25, "tag_values": ["checker"],
        "orders": [{"start_s": 0, "end_s": 99, "tag": {"value": "checker", "box": [8, 300, 40, 332]}}],
        "labels": [{"text": "B42", "box": [100, 20, 132, 33]}],
        "objects": {"right_hand": {"boxes": hands}}
        | {name: {"boxes": [[340, y, 360, y + 10]] * 200} for name, y in rest.items()},
    }  # fmt: skip
    path = folder / "r.json"
    path.write_text(json.dumps(value))
    return RecordingTruth(path)


def test_the_question_about_a_tag_names_its_row_and_column(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sight, _ = truth_of(tmp_path).sight("tag", meta_of(), rng)
    assert sight is not None
    assert sight.asked(4) == "Which pattern does the tag in row 4, column 1 show?"
    assert sight.asked(2) == "Which pattern does the tag in row 2, column 1 show?"
    label, _ = truth_of(tmp_path).sight("label", meta_of(), rng)
    assert label is not None and label.asked(4) == label.text


def test_a_label_is_asked_about_where_nothing_covers_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sight, _ = truth_of(tmp_path, hand_over=range(70, 110)).sight("label", meta_of(), rng)
    assert sight is not None
    assert sight.value == "B42" and "first shelf label" in sight.text
    assert len(set(sight.choices)) == 4 and "B42" in sight.choices
    assert sight.frames == (0, 3), "frames 75 and 100 lie under the hand"
    place, box = sight.place(4), sight.evidence_box(4)
    assert place is not None and box is not None
    assert place[0] <= box[0] and place[1] <= box[1] and place[2] >= box[2] and place[3] >= box[3]
    covered, why = truth_of(tmp_path, hand_over=range(200)).sight("label", meta_of(), rng)
    assert covered is None and why == "label covered"


def test_a_tool_is_asked_about_where_one_is_clearly_lowest(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sight, _ = truth_of(tmp_path).sight("tool", meta_of(), rng)
    assert sight is not None and sight.value == "pen" and sight.choices == TOOLS and len(sight.frames) == 1
    unclear, why = truth_of(tmp_path, pen_y=155).sight("tool", meta_of(), rng)
    assert unclear is None and "clearly" in why


def test_boxes() -> None:
    assert around((400, 400, 420, 410), 100) == (360, 355, 460, 455)
    assert around((0, 990, 10, 1000), 100) == (0, 900, 100, 1000)
    assert overlaps((0, 0, 10, 10), (9, 9, 20, 20)) and not overlaps((0, 0, 10, 10), (10, 0, 20, 10))


def test_all_looks_and_details_in_one_run(tmp_path: Path, kit: SimpleNamespace) -> None:
    """Every trajectory's calls, executed again, give what it shows; each clip asks each detail once."""
    world = kit.make_world(tmp_path)
    for path in world.inputs.truth.glob("*.json"):
        scene = json.loads(path.read_text())
        scene["labels"] = [{"text": "C17", "box": [200, 8, 232, 21]}]
        rest = {"scanner": 100, "tape": 150, "pen": 300}
        scene["objects"] |= {name: {"boxes": [[340, y, 360, y + 10]] * 250} for name, y in rest.items()}
        path.write_text(json.dumps(scene))
    outputs = world.outputs("all-looks")
    config = TrajectoriesConfig.model_validate(
        {
            "workers": 1, "looks": ["zoom", "describe", "track"], "details": ["tag", "label", "tool"],
            "evidence_share": 0.7, "multi_share": 0.3, "detail_gain": 1.0, "closeup_none": 0.2, "closeup_right": 0.5,
        }
    )  # fmt: skip
    synthesize_trajectories(config, world.inputs, outputs)
    questions = read_questions(outputs.trajectories, "train")
    assert len({q.question_id for q in questions}) == len(questions)
    asked = Counter(q.question_id.rpartition("-cu")[2] for q in questions if q.kind == "closeup")
    assert asked["-label"] >= 20 and asked["-tool"] == 24 and asked[""] == 21
    clips = {clip.meta.clip_id: clip for clip in read_clips(world.inputs.clips, "train")}
    registry, called = default_registry(config.operations), Counter[str]()
    for trajectory, _, _ in read_trajectories(outputs.trajectories, "train"):
        clip = clips[trajectory.question.clip_id]
        source = [clip.source_frame(index) for index in range(16)]
        for turn in trajectory.turns:
            if turn.call is not None:
                assert turn.result is not None
                assert registry.execute(turn.call.name, turn.call.arguments, source).text == turn.result.text
                called[turn.call.name] += 1
    assert set(called) == {"ZOOM_IN", "SEGMENT_OBJECT_AT", "GET_PROPERTIES", "TRACK_OBJECT"}
    assert called["SEGMENT_OBJECT_AT"] == called["GET_PROPERTIES"]


def test_settings_that_leave_nothing_to_look_with_are_refused() -> None:
    for wrong in ({"looks": []}, {"looks": ["read"]}, {"details": []}):
        with pytest.raises(ConfigError, match="looks"):
            TrajectoriesConfig.parse(json.dumps(wrong), name="trajectories")

import numpy as np
import pytest

from components.base_model.config import LanguageStageConfig
from components.base_model.lessons import (
    Facts,
    Lessons,
    answer_lesson,
    call_drill,
    caption_text,
    closeup_lesson,
    lesson_of,
    read_drill,
    run_starts,
)
from components.base_model.material import Example, cell, evidence_cell
from components.shared.policy.answers import parse_reply
from components.shared.policy.tokenizer import grid_boxes
from components.shared.samples.clip import ClipMeta
from components.shared.samples.trajectory import Question

SHARES = LanguageStageConfig(caption_share=0.3, closeup_share=0.3)
TIMES = (0.0, 1.25, 2.5, 3.75)
TRUTH = {"operation": "B", "start_s": 1.2, "end_s": 3.9, "next_operation": None}


def ask(kind, truth, **more):
    return Question(question_id="q", clip_id="c", split="train", kind=kind, text=kind, truth=truth, **more)


def example(frame_labels=("A", "B", "B", "B"), *, closeup=True):
    meta = ClipMeta(
        clip_id="c", recording_id="r", subject="p", session="s", split="train", window="random", start_s=0,
        duration_s=5, frame_times_s=TIMES, frame_labels=frame_labels, frame_phases=(0.9, 0.1, 0.4, 0.7),
        operation="B", segment_s=(1.2, 3.9), next_operation=None, has_boundary=True, sampler="uniform",
        provenance="synthetic",
    )  # fmt: skip
    found = Example(meta, np.zeros((4, 56, 56, 3), np.uint8), ask("operation", TRUTH))
    if closeup:
        found.closeup = ask("closeup", {"value": "x"}, choices=("x", "y"), evidence_box=(535, 71, 640, 180))
        found.crops, found.crop_texts = {2: np.ones((112, 112, 3), np.uint8)}, {2: "frame 2"}
    return found


def test_answers_point_at_sampled_frames():
    _, answer = answer_lesson(example())
    assert parse_reply(answer.text).answer == TRUTH | {"start_s": 1.2, "end_s": 3.8}


@pytest.mark.parametrize(
    "labels, text",
    [
        (("A", "B", "B", "B"), "A 0.0 0.0, B 1.2 3.8"),
        (("A", "", "A", "A"), "A 0.0 0.0, A 2.5 3.8"),
        (("", "", "", ""), ""),
    ],
)
def test_captions_name_every_segment(labels, text):
    assert caption_text(example(labels)) == text


def test_reading_shows_the_right_crop_and_learns_only_the_value():
    talk = closeup_lesson(example(), "reading", np.random.default_rng(0))
    roles = [(message.role, message.learn) for message in talk]
    assert roles == [("user", True), ("assistant", False), ("tool", True), ("assistant", True)]
    call = parse_reply(talk[1].text).call
    assert call is not None
    assert call.arguments == {"frame": 2, "box": [500, 0, 750, 250]}
    assert talk[2].images[0].min() == 1
    assert parse_reply(talk[3].text).answer == {"value": "x"}


def test_a_closeup_without_a_crop_is_only_asked():
    bare = example()
    bare.crops = {}
    assert [m.role for m in closeup_lesson(bare, "reading", np.random.default_rng(0))] == ["user", "assistant"]


@pytest.mark.parametrize("box, expected", [((0, 0, 1000, 1000), (2, 2)), ((10, 990, 20, 1000), (0, 3))])
def test_the_evidence_cell_is_around_its_middle(box, expected):
    question = ask("closeup", {"value": "x"}, choices=("x",), evidence_box=box)
    assert evidence_cell(question) == cell(*expected)


def test_a_call_looks_at_the_evidence_in_words_the_tokenizer_knows():
    call = parse_reply(closeup_lesson(example(), "calling", np.random.default_rng(0))[-1].text).call
    assert call is not None
    assert call.arguments["box"] == [500, 0, 750, 250]
    assert str(call.arguments["box"]) in grid_boxes()


@pytest.mark.parametrize(
    "labels, expected",
    [
        (("A", "A", "B", "B"), ["0.0", "0.0", "2.5", "2.5"]),
        (("A", "B", "A", "A"), ["0.0", "1.2", "2.5", "2.5"]),
        ((), []),
    ],
)
def test_runs_begin_where_the_label_changes(labels, expected):
    assert run_starts(labels, TIMES) == expected


def test_facts_go_with_the_images_in_order():
    shown = example(("A", "", "B", "B"))
    reading = lesson_of(closeup_lesson(shown, "reading", np.random.default_rng(0)), shown)
    frames = (Facts("A", "0.0"), Facts(), Facts("B", "2.5"), Facts("B", "2.5"))
    assert reading.facts == (*frames, Facts(value="x"))
    bare = example(closeup=False)
    assert lesson_of(answer_lesson(bare), bare).facts[0] == Facts("A", "0.0")


def test_drills_are_the_ends_of_lessons():
    shown, rng = example(), np.random.default_rng
    reading, whole = read_drill(shown, rng(0)), closeup_lesson(shown, "reading", rng(0))
    assert [message.text for message in reading.conversation[1:]] == [message.text for message in whole[2:]]
    assert reading.conversation[1].images[0].min() == 1
    assert reading.facts == (Facts(value="x"),)
    calling = call_drill(shown, rng(0)).conversation
    assert calling[-1].text == closeup_lesson(shown, "calling", rng(0))[-1].text
    assert not any(message.images for message in calling)


def test_drills_depend_on_the_step_and_there_are_none_without_crops():
    lessons = Lessons([example(), example(closeup=False)], SHARES, (), 0)
    assert [len(one.conversation) for one in lessons.drills(0, 5)] == [3, 2, 3, 2, 3]
    bare = example()
    bare.crops = {}
    assert Lessons([bare], SHARES, (), 0).drills(0, 5) == []


def test_a_steps_batch_depends_on_seed_and_step_only():
    examples = [example(), example(closeup=False)]
    texts = [
        [
            message.text
            for lesson in Lessons(examples, SHARES, ("look",), seed).batch(step, 16)
            for message in lesson.conversation
        ]
        for seed, step in ((1, 1), (1, 1), (1, 2), (2, 1))
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
    assert texts[0] != texts[3]


def test_without_closeups_none_are_drawn():
    lessons = Lessons([example(closeup=False)], LanguageStageConfig(caption_share=0, closeup_share=1), (), 0)
    assert all("operation" in lesson.conversation[-1].text for lesson in lessons.batch(0, 8))

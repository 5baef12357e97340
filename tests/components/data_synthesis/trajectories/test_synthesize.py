"""The whole step on a small clips artifact."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from components.data_synthesis.trajectories.config import TrajectoriesConfig
from components.data_synthesis.trajectories.synthesize import synthesize_trajectories
from components.shared.operations import default_registry
from components.shared.runtime.artifacts import tree_digest
from components.shared.runtime.errors import ConfigError, InputError
from components.shared.samples import read_clips, read_index, read_questions, read_trajectories, verify_artifact

VALUES = ("horizontal", "vertical", "diagonal", "checker")
LABELS = ("Picking", "Scan Label", "Close Box")
TIMES = tuple(round(5 * index / 15, 3) for index in range(16))
World = Any
RIGHT = {"closeup_right": 1.0, "closeup_none": 0.0, "closeup_wrong": 0.0, "closeup_correction": 0.0}


def config(**changes: object) -> TrajectoriesConfig:
    return TrajectoriesConfig.model_validate({"workers": 1, **changes})


@pytest.fixture(scope="module")
def made(world: World) -> Path:
    outputs = world.outputs("default")
    shares = {"closeup_right": 0.4, "closeup_none": 0.2, "closeup_wrong": 0.2, "closeup_correction": 0.2}
    synthesize_trajectories(config(**shares, evidence_share=0.3, multi_share=0.2), world.inputs, outputs)
    return outputs.trajectories


def test_every_split_has_questions_and_only_taught_ones_trajectories(made: Path) -> None:
    index = verify_artifact(made)
    assert set(index.shards) == {"train", "validation"} and index.count("train") > 40
    for split in ("train", "validation", "test", "canary"):
        questions = read_questions(made, split)
        assert {q.kind for q in questions} == {"operation", "closeup"} and {q.split for q in questions} == {split}
    assert sum(q.kind == "operation" for q in read_questions(made, "train")) == 24 - 2, "two clips are ambiguous"
    assert sum(q.kind == "closeup" for q in read_questions(made, "train")) == 24 - 3, "three clips show two orders"
    assert index.facts["no_question"]["train closeup: two tags in the window"] == 3
    assert index.facts["labels"] == list(LABELS) and index.facts["closeup_values"] == list(VALUES)


def test_answers_have_the_exact_form_and_training_ends_are_frame_times(made: Path) -> None:
    for split in ("train", "test"):
        for question in read_questions(made, split):
            if question.kind == "operation":
                assert list(question.truth) == ["operation", "start_s", "end_s", "next_operation"]
                expected = (0.7, 3.7) if split == "train" else (0.6, 3.5)
                assert (question.truth["start_s"], question.truth["end_s"]) == expected
            else:
                assert question.truth["value"] in question.choices == VALUES
    for trajectory, view, _ in read_trajectories(made, "validation"):
        assert view.shape == (16, 56, 56, 3)
        if trajectory.question.kind == "operation":
            times = {round(time, 1) for time in TIMES}
            assert {trajectory.turns[-1].answer["start_s"], trajectory.turns[-1].answer["end_s"]} <= times  # type: ignore[index]


def test_every_crop_is_what_the_registry_returns_now(made: Path, world: World) -> None:
    clips = {clip.meta.clip_id: clip for clip in read_clips(world.inputs.clips, "train")}
    registry, checked = default_registry(), 0
    for trajectory, _, tools in read_trajectories(made, "train"):
        clip = clips[trajectory.question.clip_id]
        frames = [clip.source_frame(index) for index in range(16)]
        for turn in trajectory.turns:
            if turn.call is None:
                continue
            again = registry.execute(turn.call.name, turn.call.arguments, frames)
            assert turn.result is not None and turn.result.image is not None and again.image is not None
            shown = tools[turn.result.image].astype(int)
            assert np.abs(shown - again.image.astype(int)).mean() < 3, "JPEG noise only"
            checked += 1
    assert checked > 15


def test_right_zooms_show_the_value_and_wrong_ones_do_not(made: Path, kit: SimpleNamespace) -> None:
    """The crop itself tells the answer: matched against the four patterns, without any model."""
    seen = {"right": 0, "wrong": 0}
    for trajectory, _, tools in read_trajectories(made, "train"):
        if trajectory.question.kind != "closeup":
            continue
        box = trajectory.question.evidence_box
        assert box is not None
        for turn in trajectory.turns:
            if turn.call is None:
                continue
            x0, y0, x1, y1 = turn.call.arguments["box"]
            holds = x0 <= box[0] and y0 <= box[1] and x1 >= box[2] and y1 >= box[3]
            assert holds == turn.learn, "exactly the wrong zooms are not imitated"
            assert turn.result is not None and turn.result.image is not None
            crop = tools[turn.result.image].astype(float)[14 + 24 : 14 + 56, 40:72].mean(axis=2)
            scores = {v: np.corrcoef(crop.ravel(), kit.stripes(v)[..., 0].ravel())[0, 1] for v in VALUES}
            if holds:
                assert max(scores, key=scores.get) == trajectory.question.truth["value"]  # type: ignore[arg-type]
                assert max(scores.values()) > 0.9
            else:
                assert max(scores.values()) < 0.5
            seen["right" if holds else "wrong"] += 1
    assert seen["right"] >= 5 and seen["wrong"] >= 3


def test_kinds_and_stages(made: Path) -> None:
    kinds: dict[str, list[str]] = {}
    for trajectory, _, _ in read_trajectories(made, "train"):
        kinds.setdefault(trajectory.kind, []).append(trajectory.stage)
        calls = sum(turn.call is not None for turn in trajectory.turns)
        assert calls == {"direct": 0, "evidence": 1, "correction": 2, "multi": 2}[trajectory.kind]
        assert trajectory.turns[-1].learn, "the answer is always imitated"
    assert set(kinds) == {"direct", "evidence", "correction", "multi"}
    stages = {kind: set(found) for kind, found in kinds.items()}
    assert stages == {
        "direct": {"simple"},
        "evidence": {"intermediate"},
        "correction": {"complex"},
        "multi": {"complex"},
    }


def test_shares_are_respected_and_must_make_one(world: World) -> None:
    outputs = world.outputs("right")
    synthesize_trajectories(config(**RIGHT), world.inputs, outputs)
    closeups = [t for t, _, _ in read_trajectories(outputs.trajectories, "train") if t.question.kind == "closeup"]
    duplicates = read_index(outputs.trajectories).facts["rejected"].get("duplicate", 0)
    assert len(closeups) + duplicates == 21 and duplicates < 4
    assert all(t.kind == "evidence" and t.turns[0].learn for t in closeups)
    with pytest.raises(ConfigError, match=r"closeup_right \+ closeup_none"):
        TrajectoriesConfig.parse(json.dumps({"closeup_right": 0.9}), name="trajectories")


def test_motion_evidence_lies_where_the_hand_moves(world: World) -> None:
    outputs = world.outputs("motion")
    synthesize_trajectories(config(evidence_share=1.0, multi_share=0.0), world.inputs, outputs)
    boxes = [
        t.turns[0].call.arguments["box"]  # type: ignore[union-attr]
        for t, _, _ in read_trajectories(outputs.trajectories, "train")
        if t.kind == "evidence" and t.question.kind == "operation"
    ]
    assert len(boxes) == 22 and all(box == [500, 250, 750, 500] for box in boxes)


def test_the_result_does_not_depend_on_workers(world: World) -> None:
    one, two = world.outputs("one"), world.outputs("two")
    synthesize_trajectories(config(), world.inputs, one)
    synthesize_trajectories(config(workers=2), world.inputs, two)
    assert tree_digest(one.trajectories) == tree_digest(two.trajectories)


def test_another_seed_gives_other_kinds(world: World) -> None:
    digests = set()
    for seed in (1, 2):
        outputs = world.outputs(f"seed{seed}")
        synthesize_trajectories(config(seed=seed), world.inputs, outputs)
        digests.add(tree_digest(outputs.trajectories))
    assert len(digests) == 2


def test_rejections_are_counted_by_reason(world: World) -> None:
    outputs = world.outputs("strict")
    strict = config(
        **{**RIGHT, "closeup_right": 0.5, "closeup_none": 0.5}, detail_gain=1e6, evidence_share=0.0, multi_share=0.0
    )
    report = synthesize_trajectories(strict, world.inputs, outputs)
    kept = [t for t, _, _ in read_trajectories(outputs.trajectories, "train") if t.kind == "evidence"]
    assert not kept
    rejected = read_index(outputs.trajectories).facts["rejected"]
    assert rejected["not supported"] >= 8 and f"not supported {rejected['not supported']}" in report.markdown
    assert 0 < report.metrics["rejected_share"] < 1


def test_real_data_without_truth_gets_no_closeups_and_still_gives_motion(tmp_path: Path, kit: SimpleNamespace) -> None:
    world = kit.make_world(tmp_path, num_clips=8, tags=False, two_orders=0, ambiguous=0)
    report = synthesize_trajectories(config(evidence_share=1.0, multi_share=0.0), world.inputs, world.outputs("real"))
    assert report.provenance == "real" and "num_questions_train_closeup" not in report.metrics
    kept = report.facts["kept"]
    assert isinstance(kept, dict) and kept["train operation evidence"] == 8


def test_still_pictures_support_no_motion_evidence(tmp_path: Path, kit: SimpleNamespace) -> None:
    world = kit.make_world(tmp_path, num_clips=8, tags=False, move=False, two_orders=0, ambiguous=0)
    outputs = world.outputs("still")
    synthesize_trajectories(config(evidence_share=1.0, multi_share=0.0), world.inputs, outputs)
    assert read_index(outputs.trajectories).facts["rejected"]["not supported"] == 8 + 6


def test_nothing_to_learn_from_is_an_error_with_its_reasons(tmp_path: Path, kit: SimpleNamespace) -> None:
    world = kit.make_world(tmp_path, num_clips=4, tags=False, ambiguous=6)
    with pytest.raises(InputError, match="operation: ambiguous: 4"):
        synthesize_trajectories(config(), world.inputs, world.outputs("none"))


def test_examples_are_readable(made: Path) -> None:
    page = (made / "examples" / "index.html").read_text()
    assert page.count("<article>") == 20 and "shown, not imitated" in page and "ZOOM_IN" in page
    for name in {part.split('"')[0] for part in page.split('src="')[1:]}:
        assert (made / "examples" / name).stat().st_size > 100


def test_a_clip_given_twice_is_learned_once(world: World, tmp_path: Path) -> None:
    """The same pixels under another clip id are a duplicate; another scene with the same answer is none."""
    import dataclasses

    from components.shared.samples import Clip, ShardWriter, write_clip, write_index

    clips = tmp_path / "clips"
    clips.mkdir()
    originals = [clip for clip in read_clips(world.inputs.clips, "train") if not clip.meta.ambiguous][:5]
    with ShardWriter(clips, "train") as writer:
        for clip in originals:
            write_clip(writer, clip)
            again = clip.meta.model_copy(update={"clip_id": clip.meta.clip_id + "b"})
            write_clip(writer, Clip(again, clip.view_jpeg, clip.source_jpegs))
        shards = {"train": writer.close()}
    write_index(clips, read_index(world.inputs.clips).model_copy(update={"shards": shards}))
    outputs = world.outputs("twice")
    plain = config(closeups=False, evidence_share=0.0, multi_share=0.0)
    synthesize_trajectories(plain, dataclasses.replace(world.inputs, clips=clips), outputs)
    index = read_index(outputs.trajectories)
    assert index.count("train") == 5 and index.facts["rejected"] == {"duplicate": 5}

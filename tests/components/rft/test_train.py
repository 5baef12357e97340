"""The whole step on a real (random) tiny Qwen2.5-VL, and its checkpoints on the toy policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.rft import checkpoint, train
from components.rft.config import RftConfig
from components.rft.questions import plan, sample_questions
from components.rft.rollouts import LOOK
from components.rft.train import RftInputs, RftOutputs, build_orchestrator, reinforce, train_policy
from components.rft.update import Learner, learn
from components.rft.validation import Validation, helped, paired_difference, validate
from components.shared.operations import default_registry
from components.shared.policy.interface import Message
from components.shared.policy.load import load_policy
from components.shared.policy.prompts import conversation_for
from components.shared.runtime.errors import ArtifactError
from components.shared.samples.clip_shards import read_clips

SMALL = RftConfig(steps=2, num_groups=4, group_size=3, max_new_tokens=6, num_validation=5, closeup_share=0.5, seed=7)


def run(root: Path, inputs: dict[str, Path], base: dict[str, Path], config: RftConfig) -> tuple[Any, Path]:
    outputs = RftOutputs(root / "out", root / "work")
    for folder in (outputs.adapter, outputs.work):
        folder.mkdir(parents=True, exist_ok=True)
    report = reinforce(config, RftInputs(**inputs, **base, encoder=root / "no-encoder"), outputs)
    return report, outputs.adapter


def test_the_step_end_to_end(tmp_path: Path, toy: Any, tiny_base: dict[str, Path]) -> None:
    report, adapter = run(tmp_path, toy.write_artifacts(tmp_path), tiny_base, SMALL)
    assert report.provenance == "synthetic"
    assert report.metrics["updates"] == 2.0
    for stage in ("before", "after"):
        for mode in ("greedy", "sampled"):
            for kind in ("closeup", "operation"):
                assert 0.0 <= report.metrics[f"{stage}_{mode}_{kind}_accuracy"] <= 1.0
    assert len(report.curves["reward_task"]) == 2
    assert all(path.is_file() and path.is_relative_to(adapter) for path in report.pictures.values())
    result = json.loads((adapter / "rft.json").read_text())
    assert result["helped"] is report.facts["helped"]
    lines = (adapter / "rollouts.jsonl").read_text().splitlines()
    assert len(lines) >= 2 * 4 * 3
    assert {json.loads(line)["step"] for line in lines} == {0, 1}
    loaded = load_policy(tiny_base["base"], adapter)
    came_in = load_policy(tiny_base["base"], tiny_base["adapter"])
    assert (loaded.digest == came_in.digest) is not report.facts["helped"]


def test_what_a_real_policy_scores_is_what_it_sampled_and_only_that_is_learned(tiny_base: dict[str, Path]) -> None:
    """Two turns with an image between them, a forced turn before: token by token on a real Qwen2.5-VL."""
    policy = load_policy(**tiny_base)
    view = np.random.default_rng(0).integers(0, 255, (2, 56, 56, 3), dtype=np.uint8)
    crop = np.random.default_rng(1).integers(0, 255, (112, 112, 3), dtype=np.uint8)
    start = (*conversation_for("Which?", view, (0.5, 3.0)), Message("assistant", "forced words", learn=False))
    conversations, sampled = [], []
    for seed in range(5):
        messages, logprobs = (*start, Message("tool", "seen", images=(crop,))), []
        for turn in range(2):
            (said,) = policy.generate([messages], temperature=1.0, max_new_tokens=5, seed=10 * seed + turn)
            messages += (Message("assistant", said.text, token_ids=said.token_ids), Message("tool", "", images=(crop,)))
            logprobs += said.logprobs
        conversations.append(messages)
        sampled.append(logprobs)
    config = SMALL.model_copy(update={"epochs": 1, "micro_batch": 2})
    learner = Learner.start(policy, config)
    before = [parameter.detach().clone() for parameter in policy.trainable_parameters()]
    figures = learn(learner, conversations, torch.tensor([1.0, -1.0, 0.5, -0.5, 0.0]), config, sampled=sampled)
    assert figures["num_tokens"] == sum(len(logprobs) for logprobs in sampled)
    assert figures["sampler_gap"] < 1e-4
    assert figures["entropy"] == pytest.approx(-np.mean([p for row in sampled for p in row]), rel=1e-3)
    assert figures["kl"] == pytest.approx(0.0, abs=1e-6)
    assert figures["clip_share"] == 0.0
    assert any(not torch.equal(old, new) for old, new in zip(before, policy.trainable_parameters()))
    again = learn(learner, conversations, torch.tensor([1.0, -1.0, 0.5, -0.5, 0.0]), config, sampled=sampled)
    assert again["kl"] > 0.0, "the reference moved with the policy"


def test_a_real_policy_continues_a_forced_beginning_which_is_scored_but_not_learned(tiny_base: dict[str, Path]) -> None:
    policy = load_policy(**tiny_base)
    view = np.zeros((2, 56, 56, 3), np.uint8)
    start = conversation_for("Which?", view, (0.5, 3.0))
    said = policy.generate([start] * 2, temperature=1.0, max_new_tokens=4, seed=3, beginnings=["", LOOK])
    assert said[0].forced == 0
    assert said[1].text.startswith(LOOK)
    assert said[1].token_ids[: said[1].forced] == policy.codec.encode(LOOK)
    assert len(said[1].logprobs) == len(said[1].token_ids) - said[1].forced
    written = [(*start, Message("assistant", g.text, token_ids=g.token_ids, forced=g.forced)) for g in said]
    logprobs, mask = policy.token_logprobs(written)
    for row, learned, generation in zip(logprobs, mask, said):
        assert row[learned > 0].tolist() == pytest.approx(generation.logprobs, abs=1e-4)


def test_data_without_closeups_goes_through_with_operation_questions_only(
    tmp_path: Path, toy: Any, tiny_base: dict[str, Path]
) -> None:
    report, _ = run(tmp_path, toy.write_artifacts(tmp_path, kinds=("operation",)), tiny_base, SMALL)
    assert report.facts["questions_a_step"] == {"closeup": 0, "operation": 4}
    assert "before_greedy_operation_accuracy" in report.metrics
    assert not any("closeup" in name for name in report.metrics)
    assert report.metrics["num_forced"] == 0.0


def test_more_groups_than_questions_and_no_validation_questions(
    tmp_path: Path, toy: Any, tiny_base: dict[str, Path]
) -> None:
    inputs = toy.write_artifacts(tmp_path, kinds=("operation",), num_clips=2)
    (inputs["trajectories"] / "questions-validation.jsonl").write_text("")
    report, adapter = run(tmp_path, inputs, tiny_base, SMALL)
    assert report.facts["helped"] is False
    assert "no validation questions" in report.facts["reason"]
    assert load_policy(tiny_base["base"], adapter).digest == load_policy(**tiny_base).digest


def test_no_training_questions_is_an_error_with_a_remedy(tmp_path: Path, toy: Any, tiny_base: dict[str, Path]) -> None:
    inputs = toy.write_artifacts(tmp_path)
    (inputs["trajectories"] / "questions-train.jsonl").write_text("")
    with pytest.raises(ArtifactError, match="no training questions"):
        run(tmp_path, inputs, tiny_base, SMALL)


def test_questions_of_other_clips_are_refused(tmp_path: Path, toy: Any, tiny_base: dict[str, Path]) -> None:
    inputs = toy.write_artifacts(tmp_path / "a")
    other = toy.write_artifacts(tmp_path / "b", num_clips=3)
    with pytest.raises(ArtifactError, match="clips that questions ask about"):
        run(tmp_path, {**inputs, "clips": other["clips"]}, tiny_base, SMALL)


class Stopped(BaseException):
    """Stands for a kill: nothing in the code may catch it."""


@pytest.mark.parametrize("kill_at", [0, 1, 4, 5, 7])
def test_killed_and_resumed_gives_the_same_weights(
    tmp_path: Path, toy: Any, toy_tasks: Any, monkeypatch: pytest.MonkeyPatch, kill_at: int
) -> None:
    config = RftConfig(steps=8, num_groups=4, group_size=4, learning_rate=0.1, checkpoint_every=2, seed=1)
    questions = [task.question for task in toy_tasks]
    schedule = plan(questions, num_groups=4, closeup_share=1.0, seed=1)
    original = train.update

    def attempt(work: Path, stop: int | None) -> tuple[torch.Tensor, Any]:
        def interrupted(*args: Any, step: int, **options: Any) -> Any:
            if step == stop:
                raise Stopped
            return original(*args, step=step, **options)

        monkeypatch.setattr(train, "update", interrupted)
        by_id = {task.question.clip_id: task for task in toy_tasks}
        monkeypatch.setattr(train, "tasks_for", lambda asked, clips, labels: [by_id[q.clip_id] for q in asked])
        work.mkdir(exist_ok=True)
        policy = toy.policy()
        learner = Learner.start(policy, config)
        orchestrator = build_orchestrator(config, questions, None)
        registry = default_registry(config.operations)
        state = train_policy(learner, schedule, {}, toy_tasks, registry, orchestrator, config, work)
        return policy.table.detach().clone(), state

    whole, state = attempt(tmp_path / "whole", None)
    with pytest.raises(Stopped):
        attempt(tmp_path / "killed", kill_at)
    resumed, again = attempt(tmp_path / "killed", None)
    assert torch.equal(whole, resumed)
    timeless = lambda history: [{k: v for k, v in item.items() if k != "seconds"} for item in history]
    assert timeless(state.history) == timeless(again.history)
    logs = [(tmp_path / name / checkpoint.ROLLOUTS).read_text() for name in ("whole", "killed")]
    assert logs[0] == logs[1]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, toy: Any, caplog: Any) -> None:
    config = RftConfig(steps=4)
    orchestrator = build_orchestrator(config, [], None)
    policy = toy.policy()
    learner = Learner.start(policy, config)
    state = checkpoint.State(before=Validation({}, {}))
    for step in (1, 2, 3):
        with torch.no_grad():
            policy.table.fill_(float(step))
        state.step = step
        checkpoint.save(tmp_path, state, learner, orchestrator, None)
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["step-000002.pt", "step-000003.pt"]
    newest = tmp_path / "step-000003.pt"
    newest.write_bytes(newest.read_bytes()[:100])
    restored = checkpoint.restore(tmp_path, learner, orchestrator, None)
    assert restored is not None
    assert restored.step == 2
    assert float(policy.table.detach()[0, 0]) == 2.0
    assert "step-000003.pt is missing or damaged" in caplog.text


def test_the_time_budget_ends_training(tmp_path: Path, toy: Any, tiny_base: dict[str, Path]) -> None:
    config = SMALL.model_copy(update={"steps": 50, "train_seconds": 0.001})
    report, _ = run(tmp_path, toy.write_artifacts(tmp_path), tiny_base, config)
    assert report.metrics["updates"] == 1.0
    assert report.facts["ended_by"] == "time"


def test_questions_are_gone_through_whole_before_any_comes_again(toy: Any) -> None:
    questions = [q for n in range(10) for q in toy.questions(n, "train", cell=0, bright=True).values()]
    schedule = plan(questions, num_groups=4, closeup_share=0.5, seed=3)
    asked = [question.question_id for step in range(5) for question in schedule.step(step)]
    assert len(asked) == len(set(asked)) == 20
    assert schedule.step(2) == plan(questions, num_groups=4, closeup_share=0.5, seed=3).step(2)
    assert [q.question_id for q in schedule.step(5)] != [q.question_id for q in schedule.step(0)]
    assert schedule.needed(5) == {f"train-{n}" for n in range(10)}


@pytest.mark.parametrize(
    ("kinds", "share", "expected"),
    [
        (("closeup", "operation"), 0.75, (12, 4)),
        (("closeup", "operation"), 0.0, (0, 16)),
        (("operation",), 0.75, (0, 16)),
        (("closeup",), 0.25, (16, 0)),
    ],
)
def test_shares_of_the_kinds_there_are(toy: Any, kinds: Any, share: float, expected: tuple[int, int]) -> None:
    questions = [toy.questions(n, "train", cell=0, bright=True)[kind] for n in range(3) for kind in kinds]
    schedule = plan(questions, num_groups=16, closeup_share=share, seed=0)
    assert (schedule.shares["closeup"], schedule.shares["operation"]) == expected
    assert len(schedule.step(0)) == 16


def test_validation_questions_are_chosen_by_seed_and_never_more_than_there_are(toy: Any) -> None:
    questions = [toy.questions(n, "train", cell=0, bright=True)["closeup"] for n in range(10)]
    assert len(sample_questions(questions, "closeup", 4, 1)) == 4
    assert sample_questions(questions, "closeup", 4, 1) == sample_questions(questions, "closeup", 4, 1)
    assert sample_questions(questions, "closeup", 99, 1) == questions
    assert sample_questions(questions, "operation", 4, 1) == []


def figures(closeup: float | None, operation: float) -> Validation:
    values = {f"{mode}_operation_accuracy": operation for mode in ("greedy", "sampled")}
    right = {"greedy_operation": [1.0], "sampled_operation": [1.0]}
    if closeup is not None:
        values |= {f"{mode}_closeup_accuracy": closeup for mode in ("greedy", "sampled")}
        right |= {"greedy_closeup": [1.0], "sampled_closeup": [1.0]}
    return Validation(values, right)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((0.25, 0.8), (0.7, 0.8), True),
        ((0.25, 0.8), (0.25, 0.8), False),
        ((0.25, 0.8), (0.7, 0.79), True),
        ((0.25, 0.8), (0.7, 0.7), False),
        ((None, 0.6), (None, 0.62), True),
        ((None, 0.6), (None, 0.58), False),
    ],
)
def test_when_reinforcement_helped(before: Any, after: Any, expected: bool) -> None:
    assert helped(figures(*before), figures(*after), max_operation_drop=0.02)[0] is expected


def test_a_fall_of_exactly_what_is_allowed_is_allowed() -> None:
    assert helped(figures(0.25, 0.75), figures(0.9, 0.5), max_operation_drop=0.25)[0]
    assert helped(figures(0.25, 31 / 50), figures(0.9, 30 / 50), max_operation_drop=0.02)[0], "one of fifty is .02"
    assert not helped(figures(0.25, 31 / 49), figures(0.9, 30 / 49), max_operation_drop=0.02)[0]


def test_sampled_accuracy_is_the_mean_over_samples_of_each_question(toy: Any, toy_tasks: Any) -> None:
    config = SMALL.model_copy(update={"validation_samples": 8, "temperature": 1.0})
    found = validate(toy.policy(), toy_tasks, default_registry(config.operations), config)
    assert len(found.right["greedy_closeup"]) == len(found.right["sampled_closeup"]) == len(toy_tasks)
    assert set(found.right["greedy_closeup"]) <= {0.0, 1.0}
    assert all(share * 8 == int(share * 8) for share in found.right["sampled_closeup"])
    assert np.mean(found.right["sampled_closeup"]) == pytest.approx(found.figures["sampled_closeup_accuracy"])
    assert 0.1 < found.figures["sampled_closeup_accuracy"] < 0.9


def test_the_paired_interval_holds_the_mean_and_is_narrower_than_unpaired() -> None:
    before = [0, 1] * 50
    after = [0, 1] * 45 + [1, 1] * 5
    mean, low, high = paired_difference(before, after, seed=0)
    assert mean == pytest.approx(0.05)
    assert 0.0 < low < mean < high < 0.12
    assert paired_difference([1, 0, 1], [1, 0, 1], seed=0) == (0.0, 0.0, 0.0)


def test_clips_written_for_the_tests_are_readable(tmp_path: Path, toy: Any) -> None:
    inputs = toy.write_artifacts(tmp_path, num_clips=3)
    assert [clip.meta.clip_id for clip in read_clips(inputs["clips"], "train")] == ["train-0", "train-1", "train-2"]

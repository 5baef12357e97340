"""Two processes over gloo: one truth on both ranks, one process's questions and gradients, one writer, resumption."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from components.rft import checkpoint, train
from components.rft.config import RftConfig
from components.rft.questions import plan
from components.rft.rollouts import roll_out
from components.rft.train import RftInputs, RftOutputs, build_orchestrator, reinforce, train_policy
from components.rft.update import Learner, learn
from components.shared.learning.group import Group
from components.shared.operations import default_registry
from components.shared.policy.load import load_policy

CONFIG = RftConfig.model_validate(
    {
        "steps": 6, "num_groups": 5, "group_size": 4, "learning_rate": 0.1, "checkpoint_every": 2, "seed": 1,
        "deterministic": True, "rewards": {"adaptive": True},
    }
)  # fmt: skip


def a_batch(policy: Any, tasks: Any) -> tuple[list[Any], torch.Tensor, list[list[float]]]:
    """(conversations, advantages, sampled log-probabilities) of a batch that does not depend on the group."""
    episodes = roll_out(policy, tasks[:4], default_registry(CONFIG.operations), CONFIG, seed=0).episodes
    advantages = torch.linspace(-1, 1, len(episodes))
    sampled = [[p for said in episode.generations for p in said.logprobs] for episode in episodes]
    return [episode.messages for episode in episodes], advantages, sampled


def attempt(policy: Any, tasks: Any, group: Group, work: Path, stop: int | None = None) -> dict[str, Any]:
    """Training from the last checkpoint in `work`, ended without warning before update `stop`."""
    by_id = {task.question.clip_id: task for task in tasks}
    original = train.update

    def interrupted(*args: Any, step: int, **options: Any) -> Any:
        if step == stop:
            raise KeyboardInterrupt
        return original(*args, step=step, **options)

    train.tasks_for, kept = lambda asked, clips, labels: [by_id[q.clip_id] for q in asked], train.tasks_for
    train.update = interrupted
    try:
        learner = Learner.start(policy, CONFIG, group)
        questions = [task.question for task in tasks]
        schedule = plan(questions, num_groups=CONFIG.num_groups, closeup_share=1.0, seed=1)
        orchestrator, registry = build_orchestrator(CONFIG, questions, None), default_registry(CONFIG.operations)
        checks = group.share(tasks)
        state = train_policy(learner, schedule, {}, checks, registry, orchestrator, CONFIG, work)
    finally:
        train.update, train.tasks_for = original, kept
    return {
        "table": policy.table.detach().clone(),
        "running": orchestrator.running,
        "before": state.before.figures,
        "history": state.history,
    }


def rank_work(out: Path) -> None:
    """What each of the two processes does; leaves what it found under its rank."""
    from conftest import TablePolicy, make_tasks

    torch.set_num_threads(1)
    group, tasks = Group("cpu"), make_tasks()
    policy = TablePolicy()
    conversations, advantages, sampled = a_batch(policy, tasks)
    figures = learn(
        Learner.start(policy, CONFIG, group), group.share(conversations), advantages[group.part], CONFIG,
        sampled=group.share(sampled),
    )  # fmt: skip
    found: dict[str, Any] = {"learned": policy.table.detach().clone(), "figures": figures}
    found["straight"] = attempt(TablePolicy(), tasks, group, out / "straight")
    with pytest.raises(KeyboardInterrupt):
        attempt(TablePolicy(), tasks, group, out / "killed", stop=5)
    group.wait()
    found["resumed"] = attempt(TablePolicy(), tasks, group, out / "killed")
    torch.save(found, out / f"{group.rank}.pt")
    group.close()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    """What both ranks found, and the folder they worked in."""
    out = tmp_path_factory.mktemp("ranks")
    for name in ("straight", "killed"):
        (out / name).mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    subprocess.run([*command, str(out)], check=True, timeout=200)
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(2)], out


def test_a_batch_taken_apart_moves_the_weights_as_in_one_process(both: Any, toy: Any, toy_tasks: Any) -> None:
    policy = toy.policy()
    conversations, advantages, sampled = a_batch(policy, toy_tasks)
    start = policy.table.detach().clone()
    figures = learn(Learner.start(policy, CONFIG), conversations, advantages, CONFIG, sampled=sampled)
    assert not torch.allclose(policy.table, start, atol=1e-2)
    for found in both[0]:
        assert torch.allclose(found["learned"], policy.table.detach(), atol=1e-5)
        assert found["figures"] == pytest.approx(figures, rel=1e-4, abs=1e-6)


def test_weights_rewards_and_decisions_are_equal_on_both_ranks(both: Any) -> None:
    one, two = (found["straight"] for found in both[0])
    assert torch.equal(one["table"], two["table"])
    assert [one[name] for name in ("running", "before", "history")] == [
        two[name] for name in ("running", "before", "history")
    ]
    assert len(one["history"]) == 6


def test_every_question_of_a_step_is_asked_once_and_written_once(both: Any, toy_tasks: Any) -> None:
    lines = [json.loads(line) for line in (both[1] / "straight" / checkpoint.ROLLOUTS).read_text().splitlines()]
    schedule = plan([task.question for task in toy_tasks], num_groups=5, closeup_share=1.0, seed=1)
    for step in range(6):
        free = [line for line in lines if line["step"] == step and not line["forced"]]
        expected = [question.question_id for question in schedule.step(step) for _ in range(4)]
        assert [line["question_id"] for line in free] == expected
        assert [line["group"] for line in free] == [group for group in range(5) for _ in range(4)]


def test_the_ranks_do_not_draw_alike(both: Any) -> None:
    """Questions 0 and 1 are the ranks' first: with one seed for both, equal situations would be answered alike."""
    lines = [json.loads(line) for line in (both[1] / "straight" / checkpoint.ROLLOUTS).read_text().splitlines()]
    answers = {0: [], 1: []}
    for line in lines:
        if line["group"] in answers and not line["forced"]:
            answers[line["group"]].append((line["num_calls"], line["truncated"]))
    assert len(answers[0]) == len(answers[1]) == 24
    assert answers[0] != answers[1]


def test_a_group_that_was_killed_goes_on_to_the_same_weights(both: Any) -> None:
    for found in both[0]:
        assert torch.equal(found["resumed"]["table"], found["straight"]["table"])
        assert found["resumed"]["running"] == found["straight"]["running"]
    logs = [(both[1] / name / checkpoint.ROLLOUTS).read_text() for name in ("straight", "killed")]
    assert logs[0] == logs[1]


def test_the_whole_step_in_two_processes(tmp_path: Path, toy: Any, tiny_base: dict[str, Path]) -> None:
    """A real (random) tiny Qwen2.5-VL: greedy figures are those of one process, the adapter is whole."""
    small = {"num_groups": 3, "group_size": 3, "max_new_tokens": 6, "num_validation": 5, "seed": 7}
    inputs = RftInputs(**toy.write_artifacts(tmp_path), **tiny_base, encoder=tmp_path / "no-encoder")
    reports = {}
    for count in (1, 2):
        outputs = RftOutputs(tmp_path / f"out{count}", tmp_path / f"work{count}")
        outputs.work.mkdir()
        if count == 1:
            outputs.adapter.mkdir()
        config = RftConfig(**small, steps=2 if count == 2 else 0, num_processes=count, deterministic=True)
        reports[count] = reinforce(config, inputs, outputs)
    alone, together = reports[1], reports[2]
    assert (alone.metrics["num_processes"], together.metrics["num_processes"]) == (1, 2)
    assert together.metrics["updates"] == 2
    greedy = [name for name in alone.metrics if name.startswith("before_greedy")]
    assert len(greedy) > 5
    assert [together.metrics[name] for name in greedy] == [alone.metrics[name] for name in greedy]
    adapter = tmp_path / "out2"
    assert load_policy(tiny_base["base"], adapter).has_adapter
    assert json.loads((adapter / "rft.json").read_text())["helped"] is together.facts["helped"]
    assert {json.loads(line)["group"] for line in (adapter / "rollouts.jsonl").open()} == {0, 1, 2}


if __name__ == "__main__":
    rank_work(Path(sys.argv[1]))

"""The whole verb on artifacts of real form.

The policy is scripted (skill = how often it answers the truth), so that what is under test is the step's arithmetic: a
good candidate is promoted, a poor one held, nothing is scored that was not answered.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from components.evaluation.config import EvaluationConfig, GateConfig
from components.evaluation.evaluate import EvaluationInputs, EvaluationOutputs, evaluate
from components.evaluation.gate import decide
from components.shared.learning.metrics import Answer
from components.shared.policy.interface import Conversation, Generation, Policy
from components.shared.policy.prompts import answer_text
from components.shared.runtime.errors import ArtifactError, InputError
from components.shared.samples import read_clips, read_index, write_index

CONFIG = EvaluationConfig(
    num_samples=1, num_latency=2, num_resamples=300, num_failures=2, num_strips=3, gate=GateConfig(min_windows=200)
)
LOOK = '{"name": "ZOOM_IN", "arguments": {"frame": 0, "box": [0, 0, 250, 250]}}'


class Scripted(Policy):
    """Answers the truth with probability `skill`; looks before close-ups where `looks`; says rubbish at skill 0."""

    def __init__(self, world) -> None:
        self.skill, self.looks, self.asked = 0, False, 0
        self.truths = {
            clip.view_frames[0].tobytes() + clip.view_frames[-1].tobytes(): (
                clip.meta.clip_id,
                world.truths[clip.meta.clip_id],
            )
            for clip in read_clips(world.clips, "test")
        }
        assert len(self.truths) == read_index(world.clips).count("test"), "two clips look alike"
        self.labels = world.manifest.labels
        self.description = type("Description", (), {"labels": world.manifest.labels})()

    def reply(self, conversation: Conversation, temperature: float, seed: int) -> str:
        self.asked += 1
        user = conversation[0]
        clip_id, truth = self.truths[user.images[0].tobytes() + user.images[-1].tobytes()]
        rng = np.random.default_rng(
            [sum(clip_id.encode()), len(clip_id), int(clip_id[-3:]), seed if temperature else 0]
        )
        if "pattern" in user.text:
            if self.looks and len(conversation) == 1:
                return LOOK
            return '{"value": "checker"}' if len(conversation) > 1 or rng.random() < 0.5 else '{"value": "plain"}'
        if self.skill == 0:
            return "no idea" if rng.random() < 0.5 else '{"operation": "Sleeping", "start_s": 0, "end_s": 1}'
        known = rng.random() < self.skill
        other = Answer(str(rng.choice(self.labels)), (0.0, 0.5), str(rng.choice(self.labels)))
        answer = truth if known else other
        start, end = answer.segment_s
        return answer_text(
            {"operation": answer.operation, "start_s": start, "end_s": end, "next_operation": answer.next_operation}
        )

    def generate(self, conversations: Sequence[Conversation], *, temperature=0.0, max_new_tokens=48, seed=0):
        texts = [self.reply(conversation, temperature, seed) for conversation in conversations]
        return [Generation(text, (1, 2), (-0.1, -0.1), True) for text in texts]

    def load_adapter(self, directory: Path) -> str:
        found = json.loads((directory / "skill.json").read_text())
        self.skill, self.looks = found["skill"], found["looks"]
        return self.digest

    @property
    def digest(self) -> str:
        return f"{self.skill}-{self.looks}"

    forward = token_logprobs = trainable_parameters = save_adapter = None


def inputs(
    root: Path, world, *, sft: float, rft: float, helped: bool | None = True, champion: Path | None = None
) -> EvaluationInputs:
    for name, skill, looks in (("base", 0, False), ("sft", sft, False), ("rft", rft, True)):
        (root / name).mkdir(parents=True)
        (root / name / "skill.json").write_text(json.dumps({"skill": skill, "looks": looks}))
    if helped is not None:
        (root / "rft/rft.json").write_text(json.dumps({"helped": helped, "reason": "accuracy 0.5 -> 0.7"}))
    return EvaluationInputs(
        world.clips, world.trajectories, world.recordings, root / "base", root / "sft", root / "rft", champion
    )


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Evaluate scripted policies in a world; returns (report, artifact folder)."""

    def go(world, config=CONFIG, name="run", **skills):
        policy = Scripted(world)
        monkeypatch.setattr("components.shared.policy.load.load_policy", lambda base, **_: policy)
        target = tmp_path / name / "evaluation"
        target.mkdir(parents=True)
        return evaluate(config, inputs(tmp_path / name, world, **skills), EvaluationOutputs(target)), target

    return go


def test_a_good_model_is_promoted_and_everything_is_written(run, world):
    report, target = run(world, sft=0.7, rft=0.9)
    gate = json.loads((target / "gate.json").read_text())
    assert gate["decision"] == "promote" == decide(CONFIG, target), gate["reasons"]
    assert gate["candidate"] == "rft" and "accuracy 0.5 -> 0.7" in gate["reasons"][0]
    assert report.metrics["oca"] == pytest.approx(0.92, abs=0.06) and report.metrics["sft_oca"] == pytest.approx(
        0.76, abs=0.08
    )
    assert report.metrics["base_oca"] == 0 == report.metrics["base_valid"]
    assert report.metrics["timeline_f1"] > report.metrics["baseline_constant_timeline_f1"] + 0.3
    assert (
        report.metrics["rft_closeup_greedy_accuracy"] == 1.0 and report.metrics["rft_closeup_greedy_right_look"] == 1.0
    )
    assert report.metrics["sft_closeup_greedy_right_look"] == 0.0
    labels, matrix = report.confusion
    assert len(matrix) == len(labels) == len(matrix[0]) and np.sum(matrix) == report.metrics["num_windows"]
    page = (target / "report.html").read_text()
    assert "<span class=whole>(" in page, "an interval stays on one line"
    assert (
        page.count("data:image/png;base64,") == len(report.pictures) == 6
        and "<script" not in page
        and "http" not in page
    )
    assert all(path.parent == target and path.stat().st_size > 5000 for path in report.pictures.values())
    assert report.markdown == (target / "report.md").read_text() and "Gate: promote" in report.markdown
    metrics = json.loads((target / "metrics.json").read_text())
    assert metrics["oca"] == report.metrics["oca"] and metrics["all"]["candidate"] == "rft"


def test_predictions_have_one_line_a_window_and_ambiguous_ones_are_not_scored(run, world):
    _, target = run(world, sft=0.7, rft=0.9)
    rows = [json.loads(line) for line in (target / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == read_index(world.clips).count("test")
    assert sum(not row["scored"] for row in rows) == 8 * 6
    right = np.mean(
        [r["predictions"]["rft"]["answer"]["operation"] == r["truth"]["operation"] for r in rows if r["scored"]]
    )
    assert right == json.loads((target / "metrics.json").read_text())["oca"]
    assert {row["predictions"]["base"]["answer"] is None for row in rows} == {True}
    assert rows[0]["predictions"]["base"]["text"]


def test_a_poor_model_is_held(run, world):
    _, target = run(world, sft=0.02, rft=0.05)
    gate = json.loads((target / "gate.json").read_text())
    assert gate["decision"] == "hold" and any(
        "does not beat every trivial baseline" in reason for reason in gate["reasons"]
    )


@pytest.mark.parametrize(("helped", "said"), [(False, "did not help"), (None, "no rft.json")])
def test_sft_is_put_forward_where_rft_did_not_help_on_validation(run, world, helped, said):
    """Even though RFT is the better one on the test people: the test split does not choose."""
    _, target = run(world, sft=0.7, rft=0.95, helped=helped)
    gate = json.loads((target / "gate.json").read_text())
    assert gate["candidate"] == "sft" and said in gate["reasons"][0]


def test_the_champion_keeps_its_place_against_a_worse_model(run, world):
    _, first = run(world, name="first", sft=0.6, rft=0.95)
    _, worse = run(world, name="worse", sft=0.6, rft=0.75, champion=first)
    gate = json.loads((worse / "gate.json").read_text())
    assert gate["decision"] == "hold" and any("may be worse than the champion" in reason for reason in gate["reasons"])
    _, better = run(world, name="better", sft=0.6, rft=0.99, champion=worse)
    assert json.loads((better / "gate.json").read_text())["decision"] == "promote"
    found = json.loads((better / "measured.json").read_text())["champion"]
    assert found["num_shared"] == json.loads((better / "measured.json").read_text())["num_windows"]
    assert set(found["differences"]) == {"oca", "aa1", "tiou50", "timeline_f1"}


def test_a_champion_of_other_windows_is_not_compared(run, world, small_world):
    _, other = run(small_world, name="other", sft=0.9, rft=0.9)
    _, target = run(world, sft=0.7, rft=0.9, champion=other)
    gate = json.loads((target / "gate.json").read_text())
    assert gate["decision"] == "promote" and any("cannot be compared" in reason for reason in gate["reasons"])


def test_the_same_inputs_give_the_same_figures(run, world):
    first, second = (run(world, name=name, sft=0.7, rft=0.9)[0].metrics for name in ("a", "b"))
    timed = lambda key: "latency" in key
    assert {k: v for k, v in first.items() if not timed(k)} == {k: v for k, v in second.items() if not timed(k)}


def test_three_labels_few_windows_nothing_next_no_closeups(run, small_world):
    report, target = run(small_world, sft=0.9, rft=0.9)
    gate = json.loads((target / "gate.json").read_text())
    assert gate["decision"] == "hold"
    assert any("3 scored windows" in reason for reason in gate["reasons"])
    assert "aa1" not in report.metrics or report.metrics["aa1"] >= 0
    assert not (target / "closeups.png").exists() and (target / "report.html").is_file()


def test_an_adapter_with_the_same_weights_is_not_asked_again(run, world, monkeypatch):
    """As where RFT did not help and handed on the SFT adapter."""
    counts = []
    for rft in (0.7, 0.8):
        monkeypatch.setattr(Scripted, "load_adapter", load_without_looking)
        config = CONFIG.model_copy(update={"max_windows": 30, "max_closeups": 0, "num_latency": 0, "num_failures": 0})
        policies = []
        monkeypatch.setattr(Scripted, "__init__", remember(Scripted.__init__, policies))
        report, _ = run(world, config=config, name=f"rft{rft}", sft=0.7, rft=rft, helped=rft > 0.7)
        counts.append(policies[0].asked)
        assert ("rft_oca" in report.metrics) and (rft > 0.7 or report.metrics["rft_oca"] == report.metrics["sft_oca"])
    assert counts == [30 * 3, 30 * 5]


def load_without_looking(policy: Scripted, folder: Path) -> str:
    policy.skill = json.loads((folder / "skill.json").read_text())["skill"]
    return policy.digest


def remember(original, kept: list):
    def init(self, world):
        original(self, world)
        kept.append(self)

    return init


def test_windows_can_be_capped(run, world):
    report, target = run(
        world, config=CONFIG.model_copy(update={"max_windows": 40, "max_closeups": 5}), sft=0.7, rft=0.9
    )
    assert len((target / "predictions.jsonl").read_text().splitlines()) == 40
    assert report.metrics["num_closeups"] == 5


def test_no_test_questions_is_an_error(run, world, tmp_path):
    empty = tmp_path / "trajectories"
    empty.mkdir()
    write_index(empty, read_index(world.trajectories).model_copy(update={"files": {}}))
    (empty / "questions-test.jsonl").write_text("")
    with pytest.raises(InputError, match="no operation questions"):
        run(type(world)(world.recordings, world.clips, empty, world.manifest, world.truths), sft=1, rft=1)


def test_questions_of_other_clips_are_refused(run, world, small_world):
    """Clips and trajectories of two runs mixed up: most windows would silently go unscored."""
    with pytest.raises(ArtifactError, match="3 of 3 test questions do not belong to these clips"):
        run(
            type(world)(world.recordings, world.clips, small_world.trajectories, world.manifest, world.truths),
            sft=1,
            rft=1,
        )

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from components.sft.config import SftConfig
from components.sft.train import SftInputs, SftOutputs, fine_tune
from components.shared.learning import checkpoint
from components.shared.policy.load import load_policy
from components.shared.runtime.errors import InputError, StepError

CONFIG = {
    "rank": 4, "alpha": 8, "steps": 12, "batch": 8, "micro_batch": 4, "learning_rate": 2e-2, "validate_every": 3,
    "num_validation": 9, "num_asked": 6, "checkpoint_every": 2, "seed": 5,
    "curriculum": {"window": 1, "patience": 1, "cooldown": 1, "tolerance": 0.0},
}  # fmt: skip


def run(material, out, **changes):
    for name in ("adapter", "work"):
        (out / name).mkdir(parents=True, exist_ok=True)
    inputs = SftInputs(material / "trajectories", material / "clips", material / "base")
    return fine_tune(SftConfig(**(CONFIG | changes)), inputs, SftOutputs(out / "adapter", out / "work"))


@pytest.fixture(scope="module")
def straight(material, tmp_path_factory):
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("straight")
    return run(material, out), out


def weights(out):
    return (out / "adapter" / "adapter_model.safetensors").read_bytes()


def test_it_learns_and_reports_what_it_measured(straight):
    report, _ = straight
    losses = [loss for _, loss in report.curves["loss"]]
    assert len(losses) == 12
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert report.metrics["best_validation_loss"] == min(loss for _, loss in report.curves["validation_loss"])
    assert report.metrics["num_windows"] == 6
    assert report.metrics["peak_rss_bytes"] > report.metrics["estimated_bytes"] > 1e5
    assert report.facts["resumed_from_step"] == 0
    assert "| OCA |" in report.markdown and "OCA: share of windows" in report.markdown
    assert "stages are 0 simple, 1 intermediate, 2 complex" in report.markdown


def test_the_adapter_written_is_the_one_with_the_best_loss(straight, material):
    from components.sft.material import read_lessons
    from components.sft.trainer import measure

    report, out = straight
    policy = load_policy(material / "base", out / "adapter")
    loss, _ = measure(policy, read_lessons(material / "trajectories", "validation", 9, policy.layout.encode).upto(2), 4)
    assert loss == pytest.approx(report.metrics["best_validation_loss"], rel=1e-4)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(straight, material, tmp_path):
    run(material, tmp_path / "again")
    assert weights(tmp_path / "again") == weights(straight[1])
    run(material, tmp_path / "other", seed=6)
    assert weights(tmp_path / "other") != weights(straight[1])


@pytest.mark.parametrize("stop", [1, 4, 7, 11])
def test_interrupted_at_any_step_it_ends_bit_for_bit_the_same(straight, material, tmp_path, monkeypatch, stop):
    from components.sft.trainer import Trainer

    real = Trainer.train_step

    def failing(self):
        if self.run.step == stop:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(Trainer, "train_step", failing)
    with pytest.raises(KeyboardInterrupt):
        run(material, tmp_path)
    monkeypatch.undo()
    report = run(material, tmp_path)
    assert report.facts["resumed_from_step"] == stop // 2 * 2
    assert weights(tmp_path) == weights(straight[1])
    assert report.curves == straight[0].curves
    assert report.facts["curriculum_moves"] == straight[0].facts["curriculum_moves"]


def test_killed_without_warning_it_ends_bit_for_bit_the_same(straight, material, tmp_path):
    script = textwrap.dedent(
        f"""
        import json, sys
        from pathlib import Path
        import torch
        torch.set_num_threads({torch.get_num_threads()})
        from components.sft.config import SftConfig
        from components.sft.train import SftInputs, SftOutputs, fine_tune
        root, out = Path({str(material)!r}), Path({str(tmp_path)!r})
        for name in ("adapter", "work"):
            (out / name).mkdir(exist_ok=True)
        inputs = SftInputs(root / "trajectories", root / "clips", root / "base")
        config = SftConfig(**json.loads({json.dumps(json.dumps(CONFIG))}))
        fine_tune(config, inputs, SftOutputs(out / "adapter", out / "work"))
        """
    )
    child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while child.poll() is None and not list((tmp_path / "work").glob("checkpoints/step-*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    report = run(material, tmp_path)
    assert report.facts["resumed_from_step"] > 0
    assert weights(tmp_path) == weights(straight[1])


def test_micro_batches_hold_every_row_once_and_pad_little(material, policy):
    from components.sft.material import read_lessons
    from components.sft.trainer import STRETCH, micro_batches

    rows = list(read_lessons(material / "trajectories", "train", 100, policy.layout.encode).upto(2))
    parts = micro_batches(rows, 7)
    assert sorted(id(row) for part in parts for row in part) == sorted(map(id, rows))
    assert max(map(len, parts)) == 7
    sizes = [[row.ids.size for row in part] for part in parts]
    assert all(max(part) <= STRETCH * min(part) for part in sizes)
    assert max(map(max, sizes)) > STRETCH * min(map(min, sizes)), "these rows differ too little to show it"
    assert micro_batches([], 7) == []


def test_accumulation_equals_one_large_batch(material, tmp_path):
    one = run(material, tmp_path / "one", micro_batch=8, steps=3)
    many = run(material, tmp_path / "many", micro_batch=2, steps=3)
    expected = [loss for _, loss in one.curves["loss"]]
    assert [loss for _, loss in many.curves["loss"]] == pytest.approx(expected, rel=1e-4)


def test_a_checkpoint_of_another_configuration_is_not_resumed(material, tmp_path):
    run(material, tmp_path, steps=4)
    report = run(material, tmp_path, steps=5)
    assert report.facts["resumed_from_step"] == 0


def test_a_damaged_checkpoint_is_passed_over_for_the_last_good_one(straight, material, tmp_path, caplog, monkeypatch):
    from components.sft.trainer import Trainer

    real = Trainer.train_step
    monkeypatch.setattr(Trainer, "train_step", lambda self: real(self) if self.run.step < 7 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(material, tmp_path)
    monkeypatch.undo()
    newest = tmp_path / "work" / "checkpoints" / "step-00000006" / checkpoint.TENSORS
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    report = run(material, tmp_path)
    assert report.facts["resumed_from_step"] == 4
    assert "step-00000006 is damaged" in caplog.text
    assert "step-00000004" in caplog.text
    assert weights(tmp_path) == weights(straight[1])


def test_rollback_restores_weights_and_optimiser(material, tmp_path):
    from components.sft.curriculum import CurriculumState
    from components.sft.material import read_lessons
    from components.sft.trainer import Trainer

    policy = load_policy(material / "base")
    policy.add_adapter(rank=2, seed=0)
    train = read_lessons(material / "trajectories", "train", 100, policy.layout.encode)
    config = SftConfig(**CONFIG)
    trainer = Trainer(policy, config, train, train.upto(0)[:4], tmp_path, "key")
    trainer.train_step()
    kept = trainer.training_tensors()
    trainer.run.snapshot = kept
    trainer.run.step = 1
    trainer.train_step()
    moved = trainer.training_tensors()
    assert any(not torch.equal(kept[name], moved[name]) for name in kept if name.startswith("adapter."))
    assert any(not torch.equal(kept[name], moved[name]) for name in kept if name.startswith("optimizer."))
    trainer.run.curriculum = CurriculumState(stage=1, entry=2.0, cooldown=1)
    trainer.validate()
    after = trainer.training_tensors()
    assert trainer.run.curriculum.stage == 0
    assert after.keys() == kept.keys()
    assert all(torch.equal(kept[name], after[name]) for name in kept)


def test_a_loss_that_is_no_number_ends_the_training_and_changes_no_weight(material, tmp_path):
    from components.sft.material import read_lessons
    from components.sft.trainer import Trainer

    policy = load_policy(material / "base")
    policy.add_adapter(rank=2, seed=0)
    train = read_lessons(material / "trajectories", "train", 100, policy.layout.encode)
    trainer = Trainer(policy, SftConfig(**CONFIG), train, train.upto(0)[:4], tmp_path, "key")
    trainer.parameters[0].data.fill_(float("inf"))
    before = policy.adapter_state()
    with pytest.raises(StepError, match=r"the loss of step 0 is .*the training has diverged"):
        trainer.train_step()
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.adapter_state().items())


def test_no_trajectories_is_an_error(material, policy):
    from components.sft.material import read_lessons

    with pytest.raises(InputError, match="no test trajectory"):
        read_lessons(material / "trajectories", "test", 10, policy.layout.encode)


def test_without_validation_trajectories_some_training_ones_are_held_out(policy, tmp_path, make_material):
    from components.sft.material import read_both

    make_material(tmp_path, {"train": 24, "validation": 0})
    train, held, unseen = read_both(tmp_path / "trajectories", 100, 100, policy.layout.encode)
    assert not unseen
    assert (sum(train.counts()), len(held)) == (21, 3)
    assert not set(held.places) & set(train.upto(2).places)

import pytest
import torch

from components.shared.learning import checkpoint
from components.shared.runtime.errors import ArtifactError


def save(folder, step, key="key"):
    return checkpoint.save(folder, key, step, {"weight": torch.full((3,), float(step))}, {"note": step})


def test_the_newest_comes_back(tmp_path):
    for step in (5, 10, 15):
        save(tmp_path, step)
    found = checkpoint.newest(tmp_path, "key")
    assert found is not None
    assert (found.step, found.state, found.tensors["weight"].tolist()) == (15, {"note": 15}, [15.0] * 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000015"]


def test_none_where_there_is_none(tmp_path):
    assert checkpoint.newest(tmp_path / "nothing", "key") is None


def test_another_key_is_never_resumed(tmp_path):
    save(tmp_path, 5, key="other")
    assert checkpoint.newest(tmp_path, "key") is None


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def alter(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [cut, alter, lambda path: path.unlink()], ids=["cut", "altered", "missing"])
def test_a_damaged_one_is_refused_and_the_last_good_one_named(tmp_path, caplog, damage):
    save(tmp_path, 5)
    newest = save(tmp_path, 10)
    damage(newest / checkpoint.TENSORS)
    with pytest.raises(ArtifactError, match="step-00000010 is damaged"):
        checkpoint.load(newest, "key")
    found = checkpoint.newest(tmp_path, "key")
    assert found is not None
    assert found.step == 5
    assert "last good one, step-00000005" in caplog.text


def test_a_half_written_state_is_refused(tmp_path, caplog):
    newest = save(tmp_path, 5)
    (newest / checkpoint.STATE).write_text('{"step": 5')
    assert checkpoint.newest(tmp_path, "key") is None
    assert "training starts afresh" in caplog.text


def test_an_optimiser_goes_on_exactly(tmp_path):
    def train(parameter, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            (parameter**2).sum().backward()
            optimizer.step()

    def fresh():
        parameter = torch.nn.Parameter(torch.arange(1.0, 4.0))
        return parameter, torch.optim.AdamW([parameter], lr=0.1)

    straight, optimizer = fresh()
    train(straight, optimizer, 6)
    half, optimizer = fresh()
    train(half, optimizer, 3)
    tensors = {"parameter": half.detach()} | checkpoint.optimizer_tensors(optimizer)
    checkpoint.save(tmp_path, "key", 3, tensors, {})
    found = checkpoint.newest(tmp_path, "key")
    resumed, optimizer = fresh()
    resumed.data.copy_(found.tensors["parameter"])
    checkpoint.restore_optimizer(optimizer, found.tensors)
    train(resumed, optimizer, 3)
    assert torch.equal(resumed, straight)

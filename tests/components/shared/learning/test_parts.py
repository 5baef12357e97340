import threading

import pytest
import torch

from components.shared.learning.parts import Parts


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))


def gradients(number, threads=None):
    model, data = network(), torch.randn(12, 8, generator=torch.Generator().manual_seed(1))

    def part(rows):
        loss = model(rows).square().sum()
        return loss, float(loss.detach())

    if threads is not None:
        torch.set_num_threads(threads)
    with Parts(list(model.parameters())) as parts:
        figures = parts.add_gradients([lambda rows=rows: part(rows) for rows in data.chunk(number)])
    return [parameter.grad for parameter in model.parameters()], figures


def test_parts_sum_to_the_gradient_of_the_whole(two_threads):
    whole, (total,) = gradients(1)
    apart, figures = gradients(4)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(whole, apart, strict=True))
    assert sum(figures) == pytest.approx(total, rel=1e-5)


def test_the_number_of_threads_does_not_change_a_bit(two_threads):
    one, _ = gradients(4, threads=1)
    two, _ = gradients(4, threads=2)
    assert all(torch.equal(first, second) for first, second in zip(one, two, strict=True))


def test_parts_run_at_the_same_time_with_one_torch_thread_each_and_leave_the_callers_alone(two_threads):
    meeting = threading.Barrier(2, timeout=10)
    weight = torch.nn.Parameter(torch.ones(1))

    def part():
        meeting.wait()  # passes only where both parts are under way
        return (weight * 2).sum(), float(torch.get_num_threads())

    with Parts([weight]) as parts:
        assert parts.add_gradients([part, part]) == [1.0, 1.0]
    assert torch.get_num_threads() == 2 and float(weight.grad) == 4.0


def test_gradients_are_added_to_those_there_are_and_unused_parameters_keep_none(two_threads):
    used, unused, frozen = (torch.nn.Parameter(torch.ones(1)) for _ in range(3))
    frozen.requires_grad_(False)
    used.grad = torch.ones(1)
    with Parts([used, unused, frozen]) as parts:
        parts.add_gradients([lambda: ((3 * used * frozen).sum(), 0.0)])
    assert float(used.grad) == 4.0 and unused.grad is None and frozen.grad is None


def test_a_parts_error_reaches_the_caller(two_threads):
    with Parts([torch.nn.Parameter(torch.ones(1))]) as parts, pytest.raises(ZeroDivisionError):
        parts.add_gradients([lambda: 1 / 0])


def test_gradients_lie_in_memory_as_their_parameters_do():
    """Fused optimisers on GPUs refuse any other order."""
    weight = torch.nn.Parameter(torch.arange(6.0).view(2, 3))
    transposed = torch.arange(6.0).view(3, 2).t()
    assert torch.autograd.grad((weight * transposed).sum(), weight)[0].stride() != weight.stride()
    with Parts([weight]) as parts:
        parts.add_gradients([lambda: ((weight * transposed).sum(), 0.0)])
    assert weight.grad.stride() == weight.stride()
    assert torch.equal(weight.grad, transposed)

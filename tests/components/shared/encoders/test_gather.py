"""Negatives gathered across two processes: same loss and gradient as one process with the whole batch."""

import subprocess
import sys

import torch
import torch.distributed as dist

from components.shared.encoders.losses import contrastive_loss, gather_rows
from components.shared.encoders.matryoshka import nested

ROWS, DIM = 6, 4


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(ROWS, DIM, generator=generator, dtype=torch.float64)
    return draw(), draw()


def loss_of(a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A projector's weight is what is trained; rows are gathered after it."""
    rows = {name: nested(gather_rows(x @ weight), (2, DIM)) for name, x in (("vision", a), ("text", b))}
    return contrastive_loss(rows, torch.tensor(1.0, dtype=torch.float64))


def work(rank: int, store: str, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    half = slice(0, ROWS // 2) if rank == 0 else slice(ROWS // 2, ROWS)
    weight = torch.eye(DIM, dtype=torch.float64, requires_grad=True)
    loss = loss_of(*(x[half] for x in batch()), weight)
    loss.backward()
    gradient = weight.grad.clone()
    dist.all_reduce(gradient)
    torch.save({"loss": loss.detach(), "gradient": gradient / 2}, f"{folder}/{rank}.pt")
    dist.barrier()  # gloo aborts, now and then, where the other side is gone while this one is still ending
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    started = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path / "store"), str(tmp_path)])
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    weight = torch.eye(DIM, dtype=torch.float64, requires_grad=True)
    loss = loss_of(*batch(), weight)
    loss.backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.allclose(found["loss"], loss.detach())
        assert torch.allclose(found["gradient"], weight.grad)


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2], sys.argv[3])

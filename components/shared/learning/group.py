"""The processes that train together: who writes, sums over all, and one truth for decisions.

Role: a thin face of accelerate's PartialState (gloo on the CPU, NCCL on GPUs, nothing at all where a process is alone),
so that a training loop is the same code for one process and for many.
Guarantees: `total` and `agreed` give the same bits on every rank, so decisions taken from them are equal everywhere.
Not guaranteed: progress when a rank dies; the launcher then ends them all and the run goes on from its checkpoint.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, TypeVar

import torch

T = TypeVar("T")
PATIENCE = datetime.timedelta(hours=2)
"""How long a rank waits for the others: rank 0 asks questions and writes while they wait."""


class Group:
    """The group this process belongs to; a group of one where no launcher started it.

    Args:
        device: The section's device; in a group of GPUs each rank has its own.
    """

    def __init__(self, device: str = "cpu") -> None:
        from accelerate import PartialState

        on_gpu = device.startswith("cuda")
        self._state: Any = PartialState(cpu=not on_gpu, timeout=PATIENCE)
        self.rank: int = self._state.process_index
        self.size: int = self._state.num_processes
        self.device = f"cuda:{self._state.local_process_index}" if on_gpu and self.size > 1 else device

    @property
    def writes(self) -> bool:
        """Whether this rank writes files and reports."""
        return self.rank == 0

    @property
    def part(self) -> slice:
        """Which items of a list that all ranks hold are this rank's."""
        return slice(self.rank, None, self.size)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's part of a list that all ranks hold: every `size`-th item."""
        return items if self.size == 1 else items[self.part]

    def total(self, *values: float) -> list[float]:
        """The sums over all ranks, in double precision."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(sums)
        return [float(value) for value in self.agreed(sums.tolist())]

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over all ranks; a rank without one counts as zero."""
        if self.size == 1:
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        torch.distributed.all_reduce(flat)
        at = 0
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = flat[at : at + grad.numel()].view_as(grad).clone()
            at += grad.numel()

    def agreed(self, value: T) -> T:
        """Rank 0's value on every rank (pickled: values, lists, dictionaries of tensors)."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, device=torch.device(self.device))
        return box[0]

    def gather(self, items: Sequence[T]) -> list[T]:
        """The items of all ranks, put back into the order that `share` took them from."""
        if self.size == 1:
            return list(items)
        parts: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(parts, list(items))
        longest = max(len(part) for part in parts)
        return [part[index] for index in range(longest) for part in parts if index < len(part)]

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            torch.distributed.barrier()

    def close(self) -> None:
        """Leave the group; the process trains no more."""
        if self.size > 1:
            self._state.destroy_process_group()

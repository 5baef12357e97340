"""A step's gradient from parts of its batch that are computed side by side, a thread each.

Role: most operations of a tiny model are too short to be shared by two cores, while parts of a batch need nothing from
each other. Each part runs forward and backward on one thread of its own, and so do the preparations it makes.
Guarantee: the sum is that of the parts in their order, and each is computed by one torch thread, so the gradient is the
same bit for bit however many threads there are.
Not guaranteed: that a model's forward may run in several threads at once; the caller knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import TypeVar

import torch

T = TypeVar("T")
Part = Callable[[], tuple[torch.Tensor, float]]
"""Gives (the loss whose gradient is wanted, a figure for the caller)."""


class Parts:
    """Adds gradients of parts to parameters.

    Args:
        parameters: Whose gradients; frozen ones, and those that no part uses, are left alone.
        threads: As many as torch uses where it is 0. With 1 the parts run one after the other, each on all of torch's
            threads: what talks to other processes or to a GPU must not run side by side.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], threads: int = 0) -> None:
        self.parameters = list(parameters)
        if threads == 1:
            self._pool = ThreadPoolExecutor(1, "part")
        else:
            self._pool = ThreadPoolExecutor(threads or torch.get_num_threads(), "part", torch.set_num_threads, (1,))

    def __enter__(self) -> Parts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def run(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """What the calls give, made side by side."""
        return list(self._pool.map(lambda call: call(), calls))

    def add_gradients(self, parts: Sequence[Part]) -> list[float]:
        """Add every part's gradient; the figures of the parts. Large parts first leave no core waiting at the end."""
        figures, learning = [], [parameter for parameter in self.parameters if parameter.requires_grad]
        for gradients, figure in self._pool.map(partial(_gradients, learning), parts):
            figures.append(figure)
            for parameter, gradient in zip(learning, gradients, strict=True):
                if gradient is None:
                    continue
                if parameter.grad is None:
                    parameter.grad = laid_out(gradient, parameter)
                else:
                    parameter.grad.add_(gradient)
        return figures


def laid_out(gradient: torch.Tensor, parameter: torch.nn.Parameter) -> torch.Tensor:
    """The gradient in its parameter's memory order, as fused optimisers on GPUs demand; `autograd.grad` gives any."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _gradients(parameters: Sequence[torch.nn.Parameter], part: Part) -> tuple[tuple[torch.Tensor | None, ...], float]:
    loss, figure = part()
    return torch.autograd.grad(loss, parameters, allow_unused=True), figure

"""The stream under torch's DataLoader: batches are read and decoded by processes ahead of training.

    stream = SampleStream(trajectories, "train", decode_trajectory, batch=config.batch, seed=config.seed)
    loader = StreamLoader(stream, num_workers=4, rank=rank, num_ranks=num_ranks, state=checkpoint.get("stream"))
    for batch in loader:
        ...
        checkpoint["stream"] = loader.state()

The state is what the loader handed out, not what its processes have read ahead: the batches after a break are those
that an uninterrupted run would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from components.shared.samples.stream import SampleStream, Share

T = TypeVar("T")


class _Batches(IterableDataset[list[T]]):
    """Batches of a stream from some batch on, dealt out to DataLoader's processes."""

    def __init__(self, stream: SampleStream[T], first: int, rank: int, num_ranks: int) -> None:
        super().__init__()
        self._stream, self._first, self._rank, self._num_ranks = stream, first, rank, num_ranks

    def __iter__(self) -> Iterator[list[T]]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        return self._stream.batches(self._first, Share(self._rank, self._num_ranks, worker, num_workers))


class StreamLoader(Generic[T]):
    """Endless batches of this rank, with the place in the stream.

    Args:
        stream: Where batches come from; its `decode` must be picklable where there are processes.
        num_workers: Loading processes; 0 reads in this one.
        rank: Of this training process.
        num_ranks: Training processes.
        state: Of a checkpoint, to go on from.

    Raises:
        ArtifactError: the state is not this stream's.
    """

    def __init__(
        self,
        stream: SampleStream[T],
        *,
        num_workers: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
        state: dict[str, Any] | None = None,
    ) -> None:
        self._stream = stream
        self._handed_out = stream.resume(state) if state else 0
        self._loader: DataLoader[list[T]] = DataLoader(
            _Batches(stream, self._handed_out, rank, num_ranks),
            batch_size=None,
            num_workers=num_workers,
            multiprocessing_context="spawn" if num_workers else None,
        )

    def __iter__(self) -> Iterator[list[T]]:
        for batch in self._loader:
            self._handed_out += 1
            yield batch

    def state(self) -> dict[str, Any]:
        """The place after the batch handed out last."""
        return self._stream.state(self._handed_out)

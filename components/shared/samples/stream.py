"""An endless, shuffled stream of samples that can be picked up again at any batch.

Reading in the order of writing needs nothing (`read_samples`); training wants samples shuffled over shards, spread over
ranks and loading processes, never all in memory, and after a break to go on exactly where it stopped. webdataset's
shuffle buffer cannot: its state is the buffer. Here the order is a function, so the state is one number.

    epoch e      permutes the shards; neighbours in that order form groups of `mix_shards`; inside a group all samples
                 are permuted together. Both permutations depend on (seed, e, group) alone.
    batch k      is samples k G .. (k + 1) G - 1 of the epochs laid end to end, G being the batch over all ranks;
                 rank r of R takes its r-th part. Nothing is dropped and nothing padded.
    process w    of W loading processes reads batches w, w + W, ..., which is how torch's DataLoader takes turns.

Guarantees: each sample once an epoch, whatever ranks and processes; the sequence of batches depends on seed, shards and
G only, so also a run that goes on with other ranks or processes (same G) sees what it would have seen; finding batch k
reads the headers of the shards it lies in, not what came before it; memory is one group's offsets and the batch.
Not guaranteed: a uniformly random order over all shards (samples of different groups do not mix within an epoch; the
groups are other ones in the next).
Why an order of our own: docs/decisions/0008-order-as-a-function.md.
"""

from __future__ import annotations

import bisect
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from components.shared.runtime.errors import ArtifactError, ConfigError
from components.shared.samples.index import read_index
from components.shared.samples.reading import locate_samples, parse_sample
from components.shared.samples.shards import ShardRecord

T = TypeVar("T")
SHARDS_STREAM, SAMPLES_STREAM = 11, 12
"""Keep the two permutations' random numbers apart from each other and from every other use of the seed."""


@dataclass(frozen=True)
class Share:
    """Which part of every batch is ours, and which batches a loading process reads."""

    rank: int = 0
    num_ranks: int = 1
    worker: int = 0
    num_workers: int = 1


class SampleStream(Generic[T]):
    """Batches of decoded samples, endlessly.

    Args:
        artifact: Folder with index.json and shards.
        split: Whose samples.
        decode: Makes a value of (key, members by suffix); raises ArtifactError for a sample of another form.
        batch: Samples of a batch over all ranks.
        seed: Of the order.
        mix_shards: Shards whose samples are shuffled together; as many files are open at once.

    Raises:
        ArtifactError: the split has no samples.
        ConfigError: fewer than one sample a batch.
    """

    def __init__(
        self,
        artifact: Path,
        split: str,
        decode: Callable[[str, dict[str, bytes]], T],
        *,
        batch: int,
        seed: int,
        mix_shards: int = 4,
    ) -> None:
        if batch < 1 or mix_shards < 1:
            raise ConfigError(f"batch = {batch}, mix_shards = {mix_shards}: both must be at least 1.")
        self.artifact, self.split, self.decode = artifact, split, decode
        self.batch, self.seed, self.mix_shards = batch, seed, mix_shards
        self.shards = tuple(shard for shard in read_index(artifact).shards.get(split, ()) if shard.count)
        self.num_samples = sum(shard.count for shard in self.shards)
        if not self.num_samples:
            raise ArtifactError(
                f"{artifact} has no {split} sample, so there is nothing to stream.",
                remedy="Look at the report of the step that wrote it.",
            )

    @cached_property
    def identity(self) -> str:
        """Digest of what the order depends on: a state only fits a stream of the same identity."""
        parts = [str(self.seed), str(self.batch), str(self.mix_shards), *(shard.sha256 for shard in self.shards)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def state(self, num_batches: int) -> dict[str, Any]:
        """What a checkpoint keeps after `num_batches` batches: of the same size at any point."""
        return {"batches": num_batches, "identity": self.identity}

    def resume(self, state: dict[str, Any]) -> int:
        """The batch to go on with.

        Raises:
            ArtifactError: the state belongs to other shards, another seed or another batch.
        """
        if state["identity"] != self.identity:
            raise ArtifactError(
                f"{self.artifact}: the checkpoint's place in the stream belongs to other shards, another seed, batch "
                "or mix_shards; going on would repeat some samples and leave out others.",
                remedy="Resume with the data and settings of the checkpoint, or start anew.",
            )
        return int(state["batches"])

    def batches(self, first: int = 0, share: Share = Share()) -> Iterator[list[T]]:
        """Our part of batches `first` onwards (of every `num_workers`-th of them); never ends.

        Raises:
            ConfigError: the batch does not divide by the ranks.
            ArtifactError: a shard is missing or damaged; names it.
        """
        if self.batch % share.num_ranks:
            raise ConfigError(
                f"a batch of {self.batch} samples cannot be shared evenly by {share.num_ranks} ranks.",
                remedy="Choose a batch that divides by the number of ranks.",
            )
        ours = self.batch // share.num_ranks
        reader = _Reader(self)
        try:
            number = first + share.worker
            while True:
                start = number * self.batch + share.rank * ours
                yield [self.decode(*reader.read(position)) for position in range(start, start + ours)]
                number += share.num_workers
        finally:
            reader.close()


@dataclass(frozen=True)
class _Group:
    """Shards of an epoch that are shuffled together: samples `first` to `first + len(order) - 1` of the epoch."""

    shards: tuple[ShardRecord, ...]
    ends: tuple[int, ...]
    """Samples up to and with each shard."""
    order: np.ndarray
    """Permutation of the group's samples, int (samples,)."""


class _Reader:
    """Finds and reads samples by their position in the endless stream; keeps one epoch's and one group's order."""

    def __init__(self, stream: SampleStream[Any]) -> None:
        self.stream = stream
        self._epoch = -1
        self._groups: list[tuple[ShardRecord, ...]] = []
        self._starts: list[int] = []
        self._current: tuple[int, int] = (-1, -1)
        self._group: _Group | None = None
        self._open: dict[str, tuple[int, list[int]]] = {}

    def read(self, position: int) -> tuple[str, dict[str, bytes]]:
        """(key, members) of the sample at a position of the stream."""
        epoch, place = divmod(position, self.stream.num_samples)
        if epoch != self._epoch:
            self._begin(epoch)
        number = bisect.bisect_right(self._starts, place) - 1
        group = self._enter(epoch, number)
        chosen = int(group.order[place - self._starts[number]])
        at = bisect.bisect_right(group.ends, chosen)
        return self._sample(group.shards[at], chosen - (group.ends[at - 1] if at else 0))

    def _begin(self, epoch: int) -> None:
        stream, width = self.stream, self.stream.mix_shards
        order = np.random.default_rng([stream.seed, SHARDS_STREAM, epoch]).permutation(len(stream.shards))
        shards = [stream.shards[index] for index in order]
        self._groups = [tuple(shards[start : start + width]) for start in range(0, len(shards), width)]
        sizes = [sum(shard.count for shard in group) for group in self._groups]
        self._starts = [0, *np.cumsum(sizes)[:-1].tolist()]
        self._epoch = epoch

    def _enter(self, epoch: int, number: int) -> _Group:
        if self._current != (epoch, number) or self._group is None:
            shards = self._groups[number]
            ends = tuple(np.cumsum([shard.count for shard in shards]).tolist())
            order = np.random.default_rng([self.stream.seed, SAMPLES_STREAM, epoch, number]).permutation(ends[-1])
            self._group, self._current = _Group(shards, ends, order), (epoch, number)
            self.close(keep={shard.name for shard in shards})
        return self._group

    def _sample(self, shard: ShardRecord, number: int) -> tuple[str, dict[str, bytes]]:
        path = self.stream.artifact / shard.name
        if shard.name not in self._open:
            offsets = locate_samples(path)
            if len(offsets) != shard.count + 1:
                raise ArtifactError(
                    f"{path} holds {len(offsets) - 1} samples, the index says {shard.count}.",
                    remedy="Run the step that writes it again.",
                )
            self._open[shard.name] = (os.open(path, os.O_RDONLY), offsets)
        descriptor, offsets = self._open[shard.name]
        size = offsets[number + 1] - offsets[number]
        return parse_sample(os.pread(descriptor, size, offsets[number]), path)

    def close(self, keep: set[str] | frozenset[str] = frozenset()) -> None:
        """Let go of all shards but those to keep."""
        for name in [name for name in self._open if name not in keep]:
            os.close(self._open.pop(name)[0])

"""Trajectories as the policy's tokens, read when they are needed, and the batch of each step.

A pool knows where its trajectories lie in the shards. One is decoded, tokenized and its pictures digested when it is
first used; the last used ones are kept up to a number of bytes, so a step finds its batch ready and memory does not
grow with the data. The batch of a step depends only on the seed, the step and the curriculum's stage: a resumed run
draws what the uninterrupted one would have drawn, and no random state is kept. (`samples.stream` gives such an order
over whole splits; a curriculum draws from the stages reached so far, so this one is over pools.)
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import overload

import numpy as np

from components.sft.curriculum import STAGES
from components.shared.policy.interface import Conversation
from components.shared.policy.layout import Encoded
from components.shared.policy.prompts import conversation_of
from components.shared.runtime.errors import InputError
from components.shared.samples.index import read_index
from components.shared.samples.reading import locate_samples, parse_sample
from components.shared.samples.trajectory import Trajectory
from components.shared.samples.trajectory_shards import decode_trajectory

Encode = Callable[[Conversation], Encoded]


@dataclass(frozen=True)
class Place:
    """Where a trajectory lies: bytes `start` to `end` of a shard."""

    shard: Path
    start: int
    end: int

    def read(self) -> tuple[str, dict[str, bytes]]:
        """(key, members by suffix)."""
        with open(self.shard, "rb") as file:
            file.seek(self.start)
            return parse_sample(file.read(self.end - self.start), self.shard)

    def conversation(self) -> Conversation:
        """The trajectory as the policy sees it."""
        return conversation_of(*decode_trajectory(*self.read(), self.shard.name))


class Memory:
    """The conversations used last, encoded, up to `max_bytes`; safe for one thread that reads ahead."""

    def __init__(self, encode: Encode, max_bytes: int) -> None:
        self.encode, self.max_bytes, self.size_bytes = encode, max_bytes, 0
        self._kept: OrderedDict[Place, Encoded] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, place: Place) -> Encoded:
        """A conversation, read and encoded where it is not kept."""
        with self._lock:
            if place in self._kept:
                self._kept.move_to_end(place)
                return self._kept[place]
        made = self.encode(place.conversation())
        with self._lock:
            if place not in self._kept:
                self._kept[place] = made
                self.size_bytes += size_of(made)
            while self.size_bytes > self.max_bytes and len(self._kept) > 1:
                self.size_bytes -= size_of(self._kept.popitem(last=False)[1])
        return made


def size_of(row: Encoded) -> int:
    """Bytes of its pictures and tokens."""
    tokens = row.ids.nbytes + row.is_image.nbytes + row.learn.nbytes + row.positions.nbytes
    return tokens + sum(image.nbytes for image in row.images)


class Pool(Sequence[Encoded]):
    """Encoded conversations by their places."""

    def __init__(self, places: Sequence[Place], memory: Memory) -> None:
        self.places, self.memory = tuple(places), memory

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...

    @overload
    def __getitem__(self, index: slice) -> Pool: ...

    def __getitem__(self, index: int | slice) -> Encoded | Pool:
        if isinstance(index, slice):
            return Pool(self.places[index], self.memory)
        return self.memory.get(self.places[index])


@dataclass
class Lessons:
    """Pools by stage, in the order of the shards."""

    by_stage: dict[str, Pool] = field(repr=False)

    def counts(self) -> list[int]:
        """Conversations of each stage."""
        return [len(self.by_stage[stage]) for stage in STAGES]

    def upto(self, stage: int) -> Pool:
        """All conversations of the stages up to and with `stage`."""
        pools = [self.by_stage[name] for name in STAGES[: stage + 1]]
        return Pool([place for pool in pools for place in pool.places], pools[0].memory)


def read_lessons(trajectories: Path, split: str, limit: int, encode: Encode, *, memory_bytes: int = 2**30) -> Lessons:
    """At most `limit` trajectories of a split, evenly spread; they stay on disk.

    Args:
        trajectories: The artifact.
        split: Which people.
        limit: Trajectories at most.
        encode: The policy's layout (`Layout.encode`).
        memory_bytes: Encoded trajectories kept in memory.

    Raises:
        InputError: there is none.
    """
    index = read_index(trajectories)
    total = index.count(split)
    if not total:
        raise InputError(
            f"{trajectories} has no {split} trajectory, so nothing can be tuned or validated.",
            remedy="Look at the rejection reasons in the trajectories step's report.",
        )
    places: dict[str, list[Place]] = {stage: [] for stage in STAGES}
    number = 0
    for record in index.shards.get(split, ()):
        offsets = locate_samples(trajectories / record.name)
        for start, end in pairwise(offsets):
            if total <= limit or (number + 1) * limit // total > number * limit // total:
                place = Place(trajectories / record.name, start, end)
                places[Trajectory.model_validate_json(place.read()[1]["json"]).stage].append(place)
            number += 1
    memory = Memory(encode, memory_bytes)
    return Lessons({stage: Pool(found, memory) for stage, found in places.items()})


def read_both(
    trajectories: Path, num_train: int, num_validation: int, encode: Encode, *, memory_bytes: int = 2**30
) -> tuple[Lessons, Sequence[Encoded], bool]:
    """(training lessons, validation conversations, whether these are of other people).

    Data too small to have validation trajectories gives up every tenth training trajectory instead: choosing the best
    checkpoint then rests on the same people, and the report says so.
    """
    train = read_lessons(trajectories, "train", num_train, encode, memory_bytes=memory_bytes)
    if read_index(trajectories).count("validation"):
        validation = read_lessons(trajectories, "validation", num_validation, encode, memory_bytes=memory_bytes)
        return train, validation.upto(len(STAGES)), True
    memory = train.upto(0).memory
    held = [place for pool in train.by_stage.values() for place in pool.places[::10]][:num_validation]
    kept = {
        stage: Pool([place for index, place in enumerate(pool.places) if index % 10], memory)
        for stage, pool in train.by_stage.items()
    }
    return (Lessons(kept) if sum(map(len, kept.values())) else train), Pool(held, memory), False


def drawn(num: int, seed: int, step: int, size: int) -> list[int]:
    """Which of `num` conversations a step takes: passes through a permutation, each pass in another order."""
    orders: dict[int, np.ndarray] = {}
    chosen = []
    for position in range(step * size, (step + 1) * size):
        turn, place = divmod(position, num)
        if turn not in orders:
            orders[turn] = np.random.default_rng([seed, 5, turn, num]).permutation(num)
        chosen.append(int(orders[turn][place]))
    return chosen


def batch_of(pool: Sequence[Encoded], seed: int, step: int, size: int) -> list[Encoded]:
    """The `size` conversations of a step."""
    return [pool[index] for index in drawn(len(pool), seed, step, size)]


class ReadAhead:
    """Reads and encodes the next step's conversations in a thread while this step computes."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._under_way: Future[None] | None = None

    def batch(self, pool: Pool, seed: int, step: int, size: int, share: slice = slice(None)) -> list[Encoded]:
        """This process's `share` of a step's conversations; the next step's are read meanwhile."""
        if self._under_way is not None:
            self._under_way.result()
        taken = [pool[index] for index in drawn(len(pool), seed, step, size)[share]]
        following = drawn(len(pool), seed, step + 1, size)[share]
        self._under_way = self._thread.submit(self._read, pool, following)
        return taken

    @staticmethod
    def _read(pool: Pool, indices: Iterable[int]) -> None:
        for index in indices:
            pool[index]

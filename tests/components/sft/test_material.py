"""Trajectories read from their places: the order is a function, memory is bounded, reading ahead changes nothing."""

import numpy as np
import pytest

from components.sft.material import Memory, Pool, ReadAhead, batch_of, drawn, read_lessons, size_of


def same(one, other):
    assert one.ids.tolist() == other.ids.tolist()
    assert one.learn.tolist() == other.learn.tolist()
    assert one.image_keys == other.image_keys
    assert all(np.array_equal(a, b) for a, b in zip(one.images, other.images, strict=True))


@pytest.fixture
def lessons(material, policy):
    """All training trajectories."""
    return read_lessons(material / "trajectories", "train", 100, policy.layout.encode)


def test_every_trajectory_is_drawn_once_a_pass_and_passes_differ():
    first, second = (sorted(drawn(7, 3, step, 7)) for step in (0, 1))
    assert first == second == list(range(7))
    assert drawn(7, 3, 0, 7) != drawn(7, 3, 1, 7)
    assert drawn(7, 3, 0, 5) + drawn(7, 3, 1, 5) == drawn(7, 3, 0, 10), "what a step draws is a place in one sequence"
    assert drawn(7, 4, 0, 7) != drawn(7, 3, 0, 7)


def test_places_hold_what_the_reader_of_whole_shards_gives(material, policy, lessons):
    from components.shared.policy.prompts import conversation_of
    from components.shared.samples.trajectory_shards import read_trajectories

    by_stage = {"simple": [], "intermediate": [], "complex": []}
    for trajectory, view, tools in read_trajectories(material / "trajectories", "train"):
        by_stage[trajectory.stage].append(policy.layout.encode(conversation_of(trajectory, view, tools)))
    assert lessons.counts() == [len(found) for found in by_stage.values()] == [8, 8, 8]
    for stage, expected in by_stage.items():
        for row, other in zip(lessons.by_stage[stage], expected, strict=True):
            same(row, other)


def test_a_limit_keeps_evenly_spread_ones(material, policy):
    assert sum(read_lessons(material / "trajectories", "train", 10, policy.layout.encode).counts()) == 10


def test_memory_keeps_the_last_used_within_its_bytes(policy, lessons):
    pool = lessons.upto(2)
    one = max(map(size_of, pool))
    memory = Memory(policy.layout.encode, 3 * one)
    small = Pool(pool.places, memory)
    kept = [small[index] for index in range(len(small))]
    assert memory.size_bytes <= 3 * one
    assert small[len(small) - 1] is kept[-1]
    assert small[0] is not kept[0]
    same(small[0], kept[0])


def test_what_is_kept_is_not_encoded_again(policy, lessons):
    seen = []

    def encode(conversation):
        seen.append(conversation)
        return policy.layout.encode(conversation)

    pool, reading = Pool(lessons.upto(2).places, Memory(encode, 2**30)), ReadAhead()
    for step in range(9):
        reading.batch(pool, 1, step, 8)
    assert len(seen) == len(pool) == 24


@pytest.mark.parametrize("size", [1, 5])
def test_reading_ahead_gives_the_same_batches_also_when_the_pool_changes(material, policy, size):
    reading = ReadAhead()
    lessons = read_lessons(material / "trajectories", "train", 100, policy.layout.encode, memory_bytes=1)
    for step, stage in enumerate((0, 0, 2, 2, 1)):
        pool = lessons.upto(stage)
        for taken, expected in zip(reading.batch(pool, 1, step, size), batch_of(pool, 1, step, size), strict=True):
            same(taken, expected)


def test_ranks_take_the_batch_apart(lessons):
    pool = lessons.upto(2)
    whole = batch_of(pool, 1, 3, 6)
    parts = [ReadAhead().batch(pool, 1, 3, 6, slice(rank, None, 2)) for rank in range(2)]
    assert [len(part) for part in parts] == [3, 3]
    for rank, part in enumerate(parts):
        for taken, expected in zip(part, whole[rank::2], strict=True):
            same(taken, expected)


def test_a_damaged_shard_is_named(policy, tmp_path, make_material):
    from components.shared.runtime.errors import ArtifactError

    make_material(tmp_path, {"train": 6, "validation": 0})
    pool = read_lessons(tmp_path / "trajectories", "train", 100, policy.layout.encode).upto(2)
    shard = pool.places[0].shard
    shard.write_bytes(shard.read_bytes()[: pool.places[-1].start + 700])
    with pytest.raises(ArtifactError, match=shard.name):
        pool[pool.places.index(max(pool.places, key=lambda place: place.start))]

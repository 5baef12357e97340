"""The stream: every sample once an epoch, one order for all ranks and processes, resumption that continues exactly."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.shared.runtime.errors import ArtifactError, ConfigError
from components.shared.samples import SampleStream, ShardIndex, ShardWriter, Share, write_index
from components.shared.samples.loading import StreamLoader
from components.shared.samples.reading import locate_samples, parse_sample, read_samples

COUNT = 103
WHOLE = Share()


def key_of(key: str, members: dict[str, bytes]) -> str:
    """The sample's key, once its members are what was written under it."""
    assert members["json"] == json.dumps({"key": key}).encode()
    assert members["payload.bin"] == key.encode() * int(key.removeprefix("s"))
    return key


def write_shards(root: Path, count: int = COUNT, max_bytes: int = 30_000) -> Path:
    root.mkdir(exist_ok=True)
    with ShardWriter(root, "train", max_bytes=max_bytes) as writer:
        for number in range(count):
            key = f"s{number:04d}"
            writer.write(key, {"json": json.dumps({"key": key}).encode(), "payload.bin": key.encode() * number})
        records = writer.close()
    write_index(root, ShardIndex(kind="trajectories", provenance="synthetic", shards={"train": records}))
    return root


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_shards(tmp_path_factory.mktemp("stream"))
    assert len(list(root.glob("*.tar"))) >= 5
    return root


def stream_of(root: Path, *, batch: int = 4, seed: int = 0, mix_shards: int = 2) -> SampleStream[str]:
    return SampleStream(root, "train", key_of, batch=batch, seed=seed, mix_shards=mix_shards)


def take(root: Path, count: int, first: int = 0, share: Share = WHOLE, **options: int) -> list[list[str]]:
    return list(itertools.islice(stream_of(root, **options).batches(first, share), count))


def test_places_lead_to_what_sequential_reading_gives(shards: Path) -> None:
    for path in shards.glob("*.tar"):
        places, data = locate_samples(path), path.read_bytes()
        found = [parse_sample(data[a:b], path) for a, b in itertools.pairwise(places)]
        assert found == list(read_samples(path))


def test_every_sample_once_an_epoch_and_epochs_differ(shards: Path) -> None:
    flat = [key for batch in take(shards, COUNT) for key in batch]  # 4 epochs in batches of 4
    epochs = [flat[start : start + COUNT] for start in range(0, len(flat), COUNT)]
    assert all(len(set(epoch)) == COUNT for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert flat[:COUNT] != sorted(flat[:COUNT])
    assert flat != [key for batch in take(shards, COUNT, seed=1) for key in batch]


def test_neighbours_come_from_all_shards_of_a_group(shards: Path) -> None:
    """With one group a batch mixes shards; with groups of one shard it cannot."""
    home = {key: path.name for path in shards.glob("*.tar") for key, _ in read_samples(path)}

    def mixed(mix_shards: int) -> float:
        batches = take(shards, COUNT // 4, mix_shards=mix_shards)
        return sum(len({home[key] for key in batch}) for batch in batches) / len(batches)

    assert mixed(1) < 1.4 < 2.2 < mixed(100)


@settings(max_examples=40, deadline=None)
@given(
    first=st.integers(0, 60), num_ranks=st.sampled_from([1, 2, 3, 6]), num_workers=st.integers(1, 4),
    mix_shards=st.integers(1, 7), seed=st.integers(0, 3),
)  # fmt: skip
def test_ranks_and_processes_only_divide_the_one_order(
    shards: Path, first: int, num_ranks: int, num_workers: int, mix_shards: int, seed: int
) -> None:
    options = {"batch": 6, "mix_shards": mix_shards, "seed": seed}
    whole = take(shards, first + 8, **options)[first:]
    pieces: list[list[str]] = [[] for _ in range(8)]
    for rank in range(num_ranks):
        by_worker = [
            iter(stream_of(shards, **options).batches(first, Share(rank, num_ranks, worker, num_workers)))
            for worker in range(num_workers)
        ]
        for number in range(8):
            pieces[number] += next(by_worker[number % num_workers])
    assert pieces == whole


def test_resumption_continues_exactly_and_its_state_does_not_grow(shards: Path) -> None:
    whole = take(shards, 70)
    sizes = set()
    for stop in (0, 1, 13, 25, 26, 27, 60):
        state = json.loads(json.dumps(stream_of(shards).state(stop)))
        sizes.add(len(json.dumps({**state, "batches": 0})))
        assert take(shards, 70 - stop, first=stream_of(shards).resume(state)) == whole[stop:]
    assert len(sizes) == 1
    assert sizes.pop() < 120


def test_resumption_does_not_read_what_came_before(tmp_path: Path) -> None:
    """Shards that were read to their end may be gone: nothing is replayed to find the place."""
    root = write_shards(tmp_path / "shards")
    options = {"batch": 1, "mix_shards": 1}
    order = [batch[0] for batch in take(root, COUNT, **options)]
    home = {key: path for path in root.glob("*.tar") for key, _ in read_samples(path)}
    half = next(n for n in range(COUNT // 2, COUNT) if home[order[n]] != home[order[n - 1]])
    for path in {home[key] for key in order[:half]}:
        path.unlink()
    assert [batch[0] for batch in take(root, COUNT - half, first=half, **options)] == order[half:]
    with pytest.raises(ArtifactError, match=r"train-00000\d\.tar is missing"):
        take(root, 1, first=half - 1, **options)


def test_a_state_of_other_data_or_settings_is_refused(shards: Path, tmp_path: Path) -> None:
    state = stream_of(shards).state(9)
    other = write_shards(tmp_path / "other", count=COUNT - 1)
    for stream in (
        stream_of(other),
        stream_of(shards, seed=1),
        stream_of(shards, batch=8),
        stream_of(shards, mix_shards=3),
    ):
        with pytest.raises(ArtifactError, match="belongs to other shards, another seed"):
            stream.resume(state)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-1500], "without an end mark|ends early"),
        (lambda data: data[:700], "without an end mark"),
        (lambda data: data.replace(b"ustar", b"gnuar"), "no plain file of a USTAR archive"),
        (lambda data: b"", "without an end mark"),
        (lambda data: data[: len(data) // 2 // 512 * 512] + bytes(1024), "samples, the index says"),
        (lambda data: os.urandom(len(data)), "header is broken|no plain file"),
        (lambda data: data[:2] + bytes([data[2] ^ 1]) + data[3:], "header of .* is broken"),
        (lambda data: data[:148] + b"x" * 8 + data[156:], "header of .* is broken"),
    ],
    ids=[
        "cut in the end mark",
        "cut in the first sample",
        "another format",
        "empty",
        "half of it",
        "noise",
        "a bit of a name",
        "a checksum that is none",
    ],
)
def test_a_damaged_shard_is_named(tmp_path: Path, damage: object, said: str) -> None:
    root = write_shards(tmp_path / "shards")
    path = root / "train-000002.tar"
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ArtifactError, match=rf"train-000002\.tar.*({said})"):
        take(root, COUNT // 4)


def test_open_files_are_bounded_by_the_group(shards: Path) -> None:
    def held() -> int:
        return sum(link.exists() and link.readlink().parent == shards for link in Path("/proc/self/fd").iterdir())

    batches = stream_of(shards, mix_shards=2).batches()
    most = 0
    for _ in range(60):
        next(batches)
        most = max(most, held())
    assert most == 2
    batches.close()  # type: ignore[attr-defined]
    assert held() == 0


def test_what_cannot_be_shared_or_streamed_is_refused(shards: Path) -> None:
    with pytest.raises(ConfigError, match="batch of 4 samples cannot be shared evenly by 3 ranks"):
        take(shards, 1, share=Share(0, 3))
    with pytest.raises(ConfigError, match="batch = 0"):
        stream_of(shards, batch=0)
    with pytest.raises(ArtifactError, match="no validation sample"):
        SampleStream(shards, "validation", key_of, batch=4, seed=0)


def test_loading_processes_change_nothing_and_resume_after_what_was_handed_out(shards: Path) -> None:
    """A loader reads ahead; its state counts what training got."""
    whole = take(shards, 40)
    loader = StreamLoader(stream_of(shards), num_workers=2)
    batches = iter(loader)
    assert [next(batches) for _ in range(17)] == whole[:17]
    state = loader.state()
    del batches, loader
    assert state["batches"] == 17
    again = iter(StreamLoader(stream_of(shards), num_workers=0, state=state))
    assert [next(again) for _ in range(23)] == whole[17:]
    halves = [iter(StreamLoader(stream_of(shards), rank=rank, num_ranks=2, state=state)) for rank in (0, 1)]
    assert [next(halves[0]) + next(halves[1]) for _ in range(5)] == whole[17:22]
    assert Counter(len(batch) for batch in whole) == {4: 40}

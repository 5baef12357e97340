"""Priorities, sampling and eviction against their definitions."""

import numpy as np
import pytest
from simulated_disk import FastDisk

from components.ttrl.buffer import BufferConfig, Experience, ExperienceBuffer, PriorityConfig, Where
from components.ttrl.buffer.eviction import reservoir_key
from components.ttrl.buffer.priority import priorities
from components.ttrl.buffer.sampling import ProportionalSampler


def one(now=0.0, **fields):
    columns = {"created_s": 0.0, "confidence": 1.0, "reward": 0.0, "retrieved": 0, "succeeded": 0, "override": np.nan}
    arrays = {name: np.array([fields.get(name, value)]) for name, value in columns.items()}
    return float(priorities(PriorityConfig(half_life_s=100.0), now, **arrays)[0])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"now": 0.0}, 0.2),
        ({"now": 100.0}, 0.1),
        ({"now": -500.0}, 0.2),
        ({"now": 1e9}, 0.01),
        ({"now": 1e9, "confidence": 0.25}, 0.3),
        ({"now": 1e9, "reward": -0.5}, 0.2),
        ({"now": 1e9, "reward": 7.0}, 0.4),
        ({"now": 0.0, "confidence": 0.0, "reward": 1.0}, 1.0),
        ({"now": 0.0, "confidence": 0.0, "reward": 1.0, "retrieved": 4, "succeeded": 1}, 0.7 + 0.3 * 0.25),
        ({"now": 0.0, "override": 3.0}, 3.0),
        ({"now": 0.0, "override": 0.0}, 0.01),
    ],
    ids=["fresh", "half-life", "from the future", "floor", "uncertain", "reward", "clipped", "all", "success",
         "override", "override below the floor"],
)  # fmt: skip
def test_priority(fields, expected):
    assert one(**fields) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [1, 5, 256, 257, 5000])
def test_draws_follow_the_weights(count):
    weights = np.random.default_rng(0).random(count) ** 3
    weights[:: max(2, count // 3)] = 0.0
    if not weights.any():
        weights[-1] = 1.0
    sampler = ProportionalSampler(weights, seed=1)
    draws = np.bincount(np.concatenate([sampler.draw(1000) for _ in range(200)]), minlength=len(sampler))[:count]
    expected = 200_000 * weights / weights.sum()
    assert (draws[weights == 0] == 0).all()
    large = expected > 5
    chi = ((draws - expected)[large] ** 2 / expected[large]).sum()
    assert chi < large.sum() + 6 * np.sqrt(2 * large.sum() + 1)


def test_distinct_draws_follow_sequential_sampling():
    """P(i in a pair) of drawing two without replacement from (1, 2, 3, 4)."""
    w = np.array([1.0, 2.0, 3.0, 4.0]) / 10
    exact = w + np.array([sum(w[j] * w[i] / (1 - w[j]) for j in range(4) if j != i) for i in range(4)])
    sampler = ProportionalSampler(w, seed=2)
    counts = np.zeros(4)
    for _ in range(20_000):
        pair = sampler.draw_distinct(2)
        assert len(set(pair.tolist())) == 2
        counts[pair] += 1
    assert counts / 20_000 == pytest.approx(exact, abs=0.015)
    assert sampler.flat()[:4] == pytest.approx(w)
    assert sorted(sampler.draw_distinct(10).tolist()) == [0, 1, 2, 3]


def test_updates_of_the_sampler():
    sampler = ProportionalSampler(np.ones(1000), seed=0)
    sampler.update(np.arange(1000), np.zeros(1000))
    sampler.update(np.array([700, 701]), np.array([1.0, 3.0]))
    draws = np.bincount(sampler.draw(8000), minlength=1000)
    assert draws[701] / 8000 == pytest.approx(0.75, abs=0.03) and draws[[700, 701]].sum() == 8000


@pytest.fixture
def make_buffer(tmp_path):
    opened = []

    def build(**fields):
        config = BufferConfig(**{"dimension": 4, "preallocate": False, "background": False, **fields})
        buffer = ExperienceBuffer.open(tmp_path / str(len(opened)), config, disk=FastDisk())
        opened.append(buffer)
        return buffer

    yield build
    for buffer in opened:
        buffer.close()


def test_a_batch_prefers_what_is_uncertain_and_weights_correct_for_it(make_buffer, make):
    buffer = make_buffer()
    for i in range(100):
        buffer.append(make(i, confidence=0.0 if i < 10 else 1.0))
    counts = {}
    for _ in range(300):
        batch = buffer.sample(1, beta=1.0)
        counts[batch.experiences[0].confidence] = counts.get(batch.experiences[0].confidence, 0) + 1
    # p: ten of 0.6, ninety of 0.2
    assert counts[0.0] / 300 == pytest.approx(6 / 24, abs=0.08)
    batch = buffer.sample(100, beta=1.0)
    assert batch.weights.max() == 1.0
    by = {e.confidence: w for e, w in zip(batch.experiences, batch.weights)}
    assert by[0.0] / by[1.0] == pytest.approx(1 / 3, rel=1e-3)


def test_sampling_follows_updates_and_removals_at_once(make_buffer, make):
    buffer = make_buffer()
    stored = [make(i) for i in range(20)]
    for e in stored:
        buffer.append(e)
    buffer.sample(1)
    for e in stored[1:]:
        buffer.update(e.id, priority=0.0)
    buffer.update(stored[0].id, priority=1e6)
    assert all(buffer.sample(1).experiences[0].id == stored[0].id for _ in range(20))
    buffer.remove(stored[0].id)
    assert stored[0].id not in {e.id for e in buffer.sample(20).experiences}
    assert len(buffer.sample(50, replacement=True).experiences) == 50


def test_bounds_of_a_batch(make_buffer, make):
    buffer = make_buffer(source_share=0.25, max_sample_age_s=1000.0, min_sample_distance=0.05)
    import time

    now = time.time()
    for i in range(40):
        buffer.append(make(i, source="loud" if i % 2 else f"s{i}", created_s=now))
    for i in range(40):
        buffer.append(make(i, source=f"old{i}", created_s=now - 5000))
    twin = np.array([1.0, 0, 0, 0])
    for i in range(10):
        buffer.append(make(i, source=f"twin{i}", visual=twin, created_s=now, priority=50.0))
    for _ in range(10):
        batch = buffer.sample(8).experiences
        assert len(batch) == 8
        assert sum(e.source == "loud" for e in batch) <= 2
        assert not any(e.source.startswith("old") for e in batch)
        unit = np.array([e.visual / np.linalg.norm(e.visual) for e in batch])
        assert (unit @ unit.T - 2 * np.eye(8)).max() <= 0.951
        assert sum(e.source.startswith("twin") for e in batch) == 1


def test_sampling_with_a_filter(make_buffer, make):
    buffer = make_buffer()
    for i in range(30):
        buffer.append(make(i))
    batch = buffer.sample(30, where=Where(sources=["source1"]))
    assert len(batch.experiences) == 10 and {e.source for e in batch.experiences} == {"source1"}
    assert buffer.sample(5, where=Where(sources=["nobody"])).experiences == []
    assert make_buffer().sample(3).experiences == []


@pytest.mark.parametrize("policy", ["lowest_priority", "oldest", "reservoir"])
def test_eviction(make_buffer, make, policy):
    buffer = make_buffer(capacity_records=50, eviction=policy)
    stored = [make(i, priority=float(1 + (i * 37) % 100)) for i in range(200)]
    for e in stored:
        buffer.append(e)
        assert len(buffer) <= 50
        assert e.id in buffer or policy == "reservoir"
    kept = set(buffer.ids())
    if policy == "oldest":
        assert kept == {e.id for e in stored[-len(kept) :]}
    elif policy == "lowest_priority":
        assert np.mean([e.priority for e in stored if e.id in kept]) > 75
    else:
        keys = np.frombuffer(b"".join(bytes.fromhex(e.id.replace("-", "")) for e in stored), np.uint8).reshape(-1, 16)
        rank = reservoir_key(keys)
        best = {stored[i].id for i in np.argsort(rank)[-49:]}
        assert len(kept & best) >= 48
    assert buffer.stats()["evicted"] == 200 - len(kept)


def test_the_reservoir_is_uniform():
    keys = np.random.default_rng(0).integers(0, 256, (20_000, 16)).astype(np.uint8)
    keys[:, :6] = 1  # one millisecond
    share = np.bincount((np.argsort(np.argsort(reservoir_key(keys)))[:10_000] // 2000), minlength=10) / 1000
    assert np.abs(share - 1).max() < 0.12


def test_eviction_by_bytes(make_buffer, make):
    buffer = make_buffer(capacity_bytes=20_000, eviction="oldest")
    for i in range(60):
        buffer.append(make(i), [bytes([i]) * 1000])
        assert buffer.stats()["live_bytes"] <= 20_000
    assert 5 < len(buffer) < 20


def test_a_reward_of_any_size_is_fine(make_buffer, make):
    buffer = make_buffer()
    for reward in (-1e30, 0.0, 1e30):
        buffer.append(make(0, reward=reward))
    assert (buffer.sample(3).priorities <= 1.0).all()
    assert isinstance(buffer.sample(1).experiences[0], Experience)

"""Any sequence of calls, restarts included, against a plain dictionary; over both adapters."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from conftest import SOAK
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from simulated_disk import FastDisk

from components.ttrl.buffer import BufferConfig, Experience, ExperienceBuffer, RecordNotFoundError, Where

VECTORS = np.random.default_rng(0).standard_normal((64, 3)).astype(np.float32)


class BufferMachine(RuleBasedStateMachine):
    adapter = "file"
    ids = Bundle("ids")

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.config = BufferConfig(
            dimension=3, adapter=self.adapter, segment_bytes=4096, preallocate=False, background=False,
            min_free_bytes=0, lmdb_map_bytes=1 << 24,
        )  # fmt: skip
        self.model = {}
        self.count = 0
        self.buffer = self.open()

    def open(self):
        return ExperienceBuffer.open(self.root / "b", self.config, disk=FastDisk())

    def teardown(self):
        self.buffer.close()
        shutil.rmtree(self.root)

    @rule(
        target=ids,
        vector=st.integers(0, 63),
        source=st.sampled_from("ab"),
        frames=st.lists(st.binary(max_size=3), max_size=3),
    )
    def append(self, vector, source, frames):
        self.count += 1
        e = Experience(question=str(self.count), visual=VECTORS[vector], source=source)
        self.buffer.append(e, frames)
        self.model[e.id] = {
            "vector": vector,
            "source": source,
            "frames": frames,
            "confidence": 0.0,
            "label": "",
            "retrieved": 0,
        }
        return e.id

    @rule(identity=ids, confidence=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
    def patch(self, identity, confidence):
        if identity in self.model:
            self.buffer.update(identity, confidence=confidence)
            self.model[identity]["confidence"] = confidence
        else:
            with pytest.raises(RecordNotFoundError):
                self.buffer.update(identity, confidence=confidence)

    @rule(identity=ids, label=st.sampled_from(["x", "y"]), vector=st.integers(0, 63))
    def rewrite(self, identity, label, vector):
        if identity in self.model:
            self.buffer.update(identity, label=label, visual=VECTORS[vector])
            self.model[identity].update(label=label, vector=vector)

    @rule(identity=ids)
    def retrieve(self, identity):
        self.buffer.record_retrieval([identity])
        if identity in self.model:
            self.model[identity]["retrieved"] += 1

    @rule(identity=ids)
    def remove(self, identity):
        if identity in self.model:
            self.buffer.remove(identity)
            del self.model[identity]

    @rule(source=st.sampled_from("ab"))
    def erase(self, source):
        gone = [i for i, m in self.model.items() if m["source"] == source]
        assert self.buffer.erase(sources=[source]) == len(gone)
        for identity in gone:
            del self.model[identity]

    @rule()
    def snapshot(self):
        self.buffer.snapshot()

    @rule(everything=st.booleans())
    def compact(self, everything):
        self.buffer.compact(everything=everything)

    @rule()
    def restart(self):
        self.buffer.close()
        self.buffer = self.open()
        assert not self.buffer.recovery.damages

    @rule()
    def die(self):
        """As kill -9: the lock goes with the process, nothing is finished."""
        self.buffer._lock.release()
        if self.adapter == "lmdb":
            self.buffer._store.close()
        self.buffer = self.open()
        assert not self.buffer.recovery.damages

    @rule(identity=ids)
    def look(self, identity):
        assert (identity in self.buffer) == (identity in self.model)
        if identity not in self.model:
            with pytest.raises(RecordNotFoundError):
                self.buffer.get(identity)
            return
        expected, e = self.model[identity], self.buffer.get(identity)
        assert (e.source, e.confidence, e.label, e.retrieval_count) == (
            expected["source"], expected["confidence"], expected["label"], expected["retrieved"])  # fmt: skip
        assert np.array_equal(e.visual, VECTORS[expected["vector"]])
        assert self.buffer.frames(identity) == expected["frames"]

    @rule(vector=st.integers(0, 63), k=st.integers(1, 5), source=st.sampled_from([None, "a"]))
    def search(self, vector, k, source):
        unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
        scores = sorted(
            (float(unit[m["vector"]] @ unit[vector]) for m in self.model.values() if source in (None, m["source"])),
            reverse=True,
        )[:k]
        where = None if source is None else Where(sources=[source])
        found = self.buffer.search_knn(VECTORS[vector], k, where)
        assert [n.similarity for n in found] == pytest.approx(scores, abs=1e-5)
        assert len({n.id for n in found}) == len(found) and {n.id for n in found} <= self.model.keys()

    @rule(n=st.integers(1, 6))
    def sample(self, n):
        batch = self.buffer.sample(n)
        assert len(batch.experiences) == min(n, len(self.model)) == len({e.id for e in batch.experiences})
        assert {e.id for e in batch.experiences} <= self.model.keys()

    @invariant()
    def counts(self):
        assert len(self.buffer) == len(self.model)
        assert self.buffer.stats()["frames"] == len({f for m in self.model.values() for f in m["frames"]})


class LmdbMachine(BufferMachine):
    adapter = "lmdb"


for machine in (BufferMachine, LmdbMachine):
    machine.TestCase.settings = settings(
        max_examples=400 if SOAK else 12, stateful_step_count=40, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
TestFile = BufferMachine.TestCase
TestLmdb = LmdbMachine.TestCase

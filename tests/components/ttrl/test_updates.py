"""The serving side of updates: verdicts, publication, workers that misbehave; and what the memory gives them."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from components.ttrl.config import TtrlConfig
from components.ttrl.gating import Lesson
from components.ttrl.guard import AdapterStore, Ledger
from components.ttrl.memory import NEGATIVES, Memory, MemoryFault
from components.ttrl.metrics import Metrics
from components.ttrl.updates import Updates

LABELS = ("Picking", "Scan Label")
PICK = {"operation": "Picking", "start_s": 0.0, "end_s": 5.0, "next_operation": None}
SCAN = {**PICK, "operation": "Scan Label"}


def unit(seed, width=16):
    vector = np.random.default_rng(seed).normal(size=width).astype(np.float32)
    return vector / np.linalg.norm(vector)


def remember(memory, seed, lesson, *, source="a", answer=PICK, question="What?"):
    return memory.remember(
        question=question,
        visual=unit(seed),
        text=unit(99),
        source=source,
        trace_id="t",
        jpegs=[f"frame {seed}".encode(), b"shared"],
        answer=answer,
        votes=[(answer, 0.75), (SCAN, 0.25)],
        confidence=0.75,
        lesson=lesson,
        trajectory=[{"name": "ZOOM_IN", "arguments": {"frame": 1}}],
        facts={"times_s": [0.0, 4.96]},
    )


@pytest.fixture
def memory(tmp_path):
    made = Memory(tmp_path / "state", TtrlConfig(), width=16, encoder="e1")
    yield made
    made.close()


class Fixture:
    """Updates with a scripted worker."""

    def __init__(self, tmp_path, memory, script, **settings):
        self.config = TtrlConfig(**{"update_timeout_s": 10.0, "freeze_after": 2, "max_source_share": 1.0} | settings)
        self.store = AdapterStore(tmp_path / "state", "model", keep=4)
        self.ledger = Ledger(tmp_path / "state" / "updates.jsonl")
        self.swapped = []
        self.updates = Updates(
            lambda: self.config,
            model=tmp_path,
            state=tmp_path / "state",
            labels=LABELS,
            memory=memory,
            store=self.store,
            ledger=self.ledger,
            metrics=Metrics(),
            swap=lambda folder, digest: self.swapped.append((folder, digest)),
            anchor_digest="anchor",
            command=(sys.executable, str(Path(__file__).parent / "scripted_worker.py"), script),
        )

    def run(self, count=1):
        deadline = time.monotonic() + 30
        for _ in range(count):
            wanted = len(self.ledger.records) + 1
            while not self.updates.request():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            while len(self.ledger.records) < wanted:  # one request a record: another would be another update
                assert time.monotonic() < deadline
                time.sleep(0.02)
            time.sleep(0.05)  # the record is kept before its consequence (a freeze) is
        return self.ledger.records[-1]


@pytest.fixture
def updates(tmp_path, memory):
    made = []

    def make(script, **settings):
        made.append(Fixture(tmp_path, memory, script, **settings))
        return made[-1]

    yield make
    for fixture in made:
        fixture.updates.close()


def test_accepted_updates_serve_and_are_noted(updates, memory):
    identity = remember(memory, 1, Lesson(PICK, (), 0.75))
    fixture = updates("accept")
    record = fixture.run()
    assert (record.status, record.num_experiences, record.changed_answers) == ("accepted", 1, 1)
    assert record.learning_rate == pytest.approx(1e-4 * 0.75 / 5), "scaled by confidence and by the ramp"
    assert fixture.swapped == [(fixture.store.directory("digest-1"), "digest-1")]
    assert fixture.store.current == "digest-1"
    assert memory.stored(identity).visits == 1


@pytest.mark.parametrize(
    ("script", "status", "reason"),
    [
        ("reject", "rejected", "canary accuracy fell from 0.7000"),
        ("unchanged", "unchanged", "no weight changed"),
        ("skip", "skipped", "0 experiences qualify"),
        ("forge", "failed", "has digest other"),
        ("die", "failed", "the other side ended"),
        ("nonsense", "failed", "ValidationError|KeyError"),
    ],
)
def test_what_is_not_accepted_is_never_served(updates, script, status, reason):
    import re

    fixture = updates(script)
    record = fixture.run()
    assert record.status == status
    assert re.search(reason, record.reason)
    assert fixture.swapped == []
    assert fixture.store.current == ""
    assert list(fixture.store.root.iterdir()) == []


def test_a_hanging_worker_is_given_up(updates):
    fixture = updates("hang", update_timeout_s=0.5)
    record = fixture.run()
    assert record.status == "failed"
    assert "TimeoutError" in record.reason
    assert fixture.updates.state()["worker_pid"] is None


def test_a_worker_that_is_stopped_before_it_reads_its_batch_is_given_up(updates, memory):
    """The batch is larger than the pipe, so sending it waits for the worker."""
    memory.remember(
        question="What?", visual=unit(1), text=unit(99), source="a", trace_id="t", jpegs=[bytes(500_000)], answer=PICK,
        votes=[(PICK, 1.0)], confidence=0.75, lesson=Lesson(PICK, (), 0.75), trajectory=[], facts={"times_s": [0.0]},
    )  # fmt: skip
    fixture = updates("stop", update_timeout_s=1.0)
    record = fixture.run()
    assert record.status == "failed"
    assert "does not read" in record.reason
    assert fixture.updates.state()["worker_pid"] is None


def test_rejections_in_a_row_freeze_learning(updates):
    fixture = updates("reject")
    fixture.run(2)
    assert "2 updates in a row" in fixture.updates.frozen
    assert fixture.updates.request() is False
    fixture.updates.close()
    again = updates("reject")
    assert "2 updates in a row" in again.updates.frozen, "a restart does not end what an operator has to end"
    again.updates.thaw()
    assert again.run().status == "rejected"
    assert again.updates.frozen == "", "the row begins anew after a resume"
    again.updates.close()
    assert updates("reject").updates.frozen == ""


def test_a_new_model_is_not_frozen_by_what_the_old_one_did(updates):
    fixture = updates("reject")
    fixture.run(2)
    fixture.updates.close()
    fixture.store.model_digest = "the next model"
    assert fixture.updates._why_frozen() == ""


def test_an_adapter_that_cannot_be_swapped_in_is_not_published(updates):
    fixture = updates("accept")

    def fail(folder, digest):
        raise RuntimeError("out of memory")

    fixture.updates._swap = fail
    assert fixture.run().status == "failed"
    assert fixture.store.current == ""


def test_a_full_queue_drops_and_counts(updates):
    fixture = updates("hang", update_queue=1)
    taken = [fixture.updates.request() for _ in range(5)]
    assert taken.count(True) <= 2
    assert taken[-1] is False


def test_an_adapter_changed_meanwhile_wins(updates, tmp_path):
    fixture = updates("accept")
    original = fixture.updates._batch

    def meddle(config):
        folder = tmp_path / "state" / "meddled"
        folder.mkdir()
        (folder / "adapter.json").write_text("{}")
        fixture.store.publish(folder, "other-adapter")
        return original(config)

    fixture.updates._batch = meddle
    record = fixture.run()
    assert record.status == "withheld"
    assert "another adapter was put into service" in record.reason
    assert fixture.store.current == "other-adapter"


def test_what_an_operator_withholds_is_no_rejection(updates):
    """Pauses in the midst of good updates must not freeze learning, and must not hide what the canary rejects."""
    fixture = updates("accept")
    original = fixture.updates._batch

    def paused_meanwhile(config):
        fixture.config = fixture.config.model_copy(update={"learn": False})
        return original(config)

    fixture.updates._batch = paused_meanwhile
    for _ in range(3):
        fixture.config = fixture.config.model_copy(update={"learn": True})
        record = fixture.run()
        assert (record.status, fixture.swapped, fixture.store.current) == ("withheld", [], "")
        assert "learning was paused" in record.reason
    assert fixture.updates.frozen == ""
    assert fixture.updates.num_tried == 3
    fixture.updates.close()
    again = updates("reject")
    assert again.updates.frozen == "", "nor at the next start"
    again.run()
    again.updates._keep(record)
    assert again.updates.frozen == ""
    again.run()
    assert "2 updates in a row" in again.updates.frozen, "a pause between two rejections does not part them"


def test_what_people_say_and_what_updates_note_do_not_overwrite_each_other(memory):
    identity = remember(memory, 1, Lesson(PICK, (), 0.75))
    with ThreadPoolExecutor(4) as pool:
        said = [pool.submit(memory.feedback, identity, {"n": n}) for n in range(40)]
        noted = [pool.submit(memory.visited, identity, visits=n, flips=0, reward=0.5) for n in range(1, 11)]
        for future in (*said, *noted):
            future.result()
    attributes = memory._buffer.get(identity).attributes
    assert sorted(one["n"] for one in attributes["feedback"]) == list(range(40))
    assert attributes["visits"] > 0


def test_only_lessons_are_drawn(memory):
    remember(memory, 1, Lesson(None, (), 0.3, "no clear vote"))
    labelled = remember(memory, 2, Lesson(PICK, (SCAN,), 0.75, "", ()))
    negative = remember(memory, 3, Lesson(None, (SCAN,), 0.4, "no lead", (PICK,)))
    drawn = {item.id: item for item in memory.lessons(10, LABELS)}
    assert drawn.keys() == {labelled, negative}
    assert drawn[labelled].label == PICK
    assert drawn[labelled].negatives == (SCAN,)
    assert drawn[labelled].jpegs == (b"frame 2", b"shared")
    assert drawn[negative].neutral == (PICK,)
    assert memory.num_lessons(LABELS) == 1
    assert NEGATIVES not in LABELS


def test_neighbours_of_another_encoder_are_not_heard(memory, tmp_path):
    identity = remember(memory, 1, Lesson(PICK, (), 0.75))
    found = memory.neighbours(unit(1), unit(99), k=3, least=0.9)
    assert [(round(similarity, 3), answer, question) for similarity, answer, question in found] == [
        (1.0, PICK, "What?")
    ]
    assert memory.neighbours(unit(5), unit(98), k=3, least=0.9) == []
    memory.close()
    other = Memory(tmp_path / "state", TtrlConfig(), width=16, encoder="e2")
    assert other.neighbours(unit(1), unit(99), k=3, least=0.9) == []
    assert other.outdated() == [identity]
    other.re_embed(identity, unit(7), unit(8))
    assert other.outdated() == []
    assert len(other.neighbours(unit(7), unit(8), k=3, least=0.9)) == 1
    other.close()


def test_a_closed_buffer_is_a_fault_with_a_reason(memory):
    memory.close()
    with pytest.raises(MemoryFault, match="BufferNotReadyError"):
        remember(memory, 1, Lesson(PICK, (), 0.75))
    with pytest.raises(MemoryFault, match="BufferNotReadyError"):
        memory.lessons(3, LABELS)

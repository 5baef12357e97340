"""Verdicts, the record of updates, published adapters."""

import pytest

from components.shared.runtime.artifacts import tree_digest
from components.shared.runtime.errors import ArtifactError, InputError
from components.ttrl.guard import AdapterStore, CanaryFigures, Ledger, UpdateRecord, judge


def figures(right, total=100):
    return CanaryFigures(accuracy=right / total, num_right=right, num_questions=total)


@pytest.mark.parametrize(
    ("after_digest", "before", "after", "anchor", "tolerance", "status"),
    [
        ("b", 80, 80, 80, 0.0, "accepted"),
        ("b", 80, 79, 80, 0.0, "rejected"),
        ("b", 80, 79, 80, 0.01, "accepted"),
        ("b", 79, 78, 80, 0.01, "rejected"),  # small falls may not add up
        ("b", 80, 85, 90, 0.0, "rejected"),  # better than now, worse than what was promoted
        ("a", 80, 80, 80, 0.0, "unchanged"),
        ("a", 80, 99, 80, 0.0, "unchanged"),
    ],
)
def test_judge(after_digest, before, after, anchor, tolerance, status):
    verdict = judge(
        digest_before="a",
        digest_after=after_digest,
        before=figures(before),
        after=figures(after),
        anchor=figures(anchor),
        tolerance=tolerance,
    )
    assert verdict.status == status
    assert bool(verdict.reason) == (status != "accepted")


def test_a_canary_without_questions_is_no_proof():
    none = CanaryFigures(accuracy=0.0, num_right=0, num_questions=0)
    verdict = judge(digest_before="a", digest_after="b", before=none, after=none, anchor=none, tolerance=0.0)
    assert verdict.status == "rejected"


def test_incomplete_canary_is_refused():
    verdict = judge(
        digest_before="a",
        digest_after="b",
        before=figures(80),
        after=figures(50, 50),
        anchor=figures(80),
        tolerance=0.0,
    )
    assert verdict.status == "rejected"


def candidate(tmp_path, text):
    folder = tmp_path / f"candidate-{text}"
    folder.mkdir()
    (folder / "adapter.safetensors").write_text(text)
    return folder, tree_digest(folder)


def test_publish_rollback_and_restart(tmp_path):
    store = AdapterStore(tmp_path, "model-1", keep=3)
    digests = []
    for text in "abcd":
        folder, digest = candidate(tmp_path, text)
        store.publish(folder, digest, check=tree_digest)
        digests.append(digest)
        assert not folder.exists()
    assert store.current == digests[3]
    assert sorted(p.name for p in store.root.iterdir()) == sorted(digests[1:]), "the oldest is pruned"
    again = AdapterStore(tmp_path, "model-1", keep=3)
    assert again.current == digests[3]
    assert again.rollback() == digests[2]
    assert again.rollback() == digests[1]
    assert again.rollback() == ""
    with pytest.raises(InputError, match="promoted adapter"):
        again.rollback()
    assert AdapterStore(tmp_path, "model-1", keep=3).current == ""


def test_published_adapters_cannot_be_written(tmp_path):
    store = AdapterStore(tmp_path, "m", keep=3)
    folder, digest = candidate(tmp_path, "a")
    target = store.publish(folder, digest)
    assert (target / "adapter.safetensors").stat().st_mode & 0o222 == 0


def test_wrong_digest_is_not_published(tmp_path):
    store = AdapterStore(tmp_path, "m", keep=3)
    folder, _ = candidate(tmp_path, "a")
    with pytest.raises(ArtifactError, match="not published"):
        store.publish(folder, "0" * 64, check=tree_digest)
    assert store.current == ""


def test_a_new_model_retires_the_adapter(tmp_path):
    store = AdapterStore(tmp_path, "model-1", keep=3)
    folder, digest = candidate(tmp_path, "a")
    store.publish(folder, digest)
    promoted = AdapterStore(tmp_path, "model-2", keep=3)
    assert promoted.current == ""
    assert promoted.retired == digest
    assert AdapterStore(tmp_path, "model-2", keep=3).retired == ""


def test_ledger_survives_a_torn_last_line(tmp_path):
    ledger = Ledger(tmp_path / "updates.jsonl")
    ledger.append(UpdateRecord(update_id="1", at=1.0, status="accepted", canary_before=figures(3)))
    with open(ledger.path, "ab") as file:
        file.write(b'{"update_id": "2", "at": 2.0, "sta')
    again = Ledger(ledger.path)
    assert [r.update_id for r in again.records] == ["1"]
    again.append(UpdateRecord(update_id="3", at=3.0, status="rejected"))
    assert [r.update_id for r in Ledger(ledger.path).records] == ["1", "3"]


def test_ledger_refuses_damage_in_the_middle(tmp_path):
    path = tmp_path / "updates.jsonl"
    ledger = Ledger(path)
    for n in "123":
        ledger.append(UpdateRecord(update_id=n, at=1.0, status="accepted"))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:20], lines[2]]) + "\n")
    with pytest.raises(ArtifactError, match=r":2: not an update record"):
        Ledger(path)

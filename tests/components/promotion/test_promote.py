"""Promotion: one folder with everything, the registry's version with its lineage, and the alias that moves last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.promotion.config import PromotionConfig
from components.promotion.promote import PromotionInputs, PromotionOutputs, promote
from components.promotion.registry import register
from components.shared.runtime import tracking
from components.shared.runtime.artifacts import read_json, tree_digest, write_json
from components.shared.runtime.errors import ArtifactError
from components.shared.runtime.records import ArtifactRecord, StepRecord, write_artifact_record
from components.shared.runtime.report import Report
from components.shared.samples import (
    Clip,
    ClipMeta,
    Question,
    ShardIndex,
    ShardWriter,
    read_clips,
    read_index,
    read_questions,
    write_clip,
    write_index,
    write_questions,
)
from components.shared.samples.jpeg import encode_jpeg
from components.shared.work.manifest import Manifest, Recording, Segment, save_manifest

LABELS = ("Picking", "Scan Label")


def recorded(folder: Path, step: str, provenance: str = "synthetic") -> Path:
    record = StepRecord(step=step, run_id="run-1", status="SUCCEEDED")
    record.outputs["out"] = ArtifactRecord(str(folder), tree_digest(folder), provenance, "run-1", step)
    write_artifact_record(folder, record, "out")
    return folder


def clip(number: int, label: str) -> Clip:
    picture = encode_jpeg(np.full((28, 14, 3), number, np.uint8))
    meta = ClipMeta(
        clip_id=f"c{number}",
        recording_id="r",
        subject="U0101",
        session="S0100",
        split="canary",
        window="sliding",
        start_s=0,
        duration_s=5,
        frame_times_s=(0.0, 4.0),
        frame_labels=(label, label),
        frame_phases=(0.0, 1.0),
        operation=label,
        segment_s=(0.0, 5.0),
        next_operation=None,
        has_boundary=False,
        sampler="uniform",
        provenance="synthetic",
    )
    return Clip(meta, picture, (picture, picture))


@pytest.fixture
def inputs(tmp_path: Path) -> PromotionInputs:
    folders = {name: tmp_path / name for name in PromotionInputs.__dataclass_fields__}
    for name, folder in folders.items():
        folder.mkdir()
        (folder / "weights").write_text(name)
    with ShardWriter(folders["clips"], "canary") as writer:
        for number in range(10):
            write_clip(writer, clip(number, LABELS[number >= 8]))
        shards = writer.close()
    write_index(folders["clips"], ShardIndex(kind="clips", provenance="synthetic", shards={"canary": shards}))
    questions = [
        Question(question_id=f"q{n}", clip_id=f"c{n}", split="canary", kind="operation", text="?", truth={})
        for n in range(10)
    ]
    write_questions(folders["trajectories"], "canary", questions)
    recording = Recording(
        recording_id="r",
        subject="U0101",
        session="S0100",
        split="train",
        video="r.mp4",
        fps=25,
        num_frames=100,
        width=8,
        height=8,
        duration_s=4,
        sha256="0" * 64,
        segments=(Segment(label="Picking", start_s=0, end_s=4),),
    )
    manifest = Manifest(
        source="twin", provenance="synthetic", split_by="person", labels=LABELS, recordings=(recording,)
    )
    save_manifest(manifest, folders["recordings"])
    gate = {"decision": "promote", "candidate": "rft", "reasons": ["better"]}
    write_json(folders["evaluation"] / "gate.json", gate)
    write_json(folders["evaluation"] / "metrics.json", {"oca": 0.8})
    (folders["evaluation"] / "predictions.jsonl").write_text("{}\n")
    for name, folder in folders.items():
        recorded(folder, name)
    return PromotionInputs(**folders)


def promoted(inputs: PromotionInputs, tmp_path: Path, **settings: object) -> tuple[Path, Report]:
    model = tmp_path / "promoted"
    model.mkdir()
    return model, promote(PromotionConfig(**settings), inputs, PromotionOutputs(model=model))


def test_the_folder_holds_everything_and_points_nowhere_else(inputs: PromotionInputs, tmp_path: Path) -> None:
    model, report = promoted(inputs, tmp_path)
    assert (model / "adapter" / "weights").read_text() == "rft"
    assert (model / "base" / "weights").read_text() == "base"
    assert not list(model.rglob("artifact.json"))
    facts = read_json(model / "promotion.json")
    assert facts["name"] == "pixelis-twin"
    assert facts["labels"] == list(LABELS)
    assert facts["adapter_digest"] == tree_digest(model / "adapter")
    assert facts["lineage"]["clips"]["run_id"] == "run-1"
    card = (model / "MODEL_CARD.md").read_text()
    assert "**synthetic**" in card
    assert "| operation right (OCA) | 0.8 | – | – |" in card
    assert report.metrics["num_canary_clips"] == 10


def test_the_canary_set_is_even_over_the_classes_and_keeps_its_questions(
    inputs: PromotionInputs, tmp_path: Path
) -> None:
    model, _ = promoted(inputs, tmp_path, max_canary_clips=4)
    found = [item.meta for item in read_clips(model / "canary", "canary")]
    assert [meta.operation for meta in found] == ["Picking", "Picking", "Scan Label", "Scan Label"]
    assert {question.clip_id for question in read_questions(model / "canary", "canary")} == {
        meta.clip_id for meta in found
    }
    assert read_index(model / "canary").count("canary") == 4


def test_a_held_model_is_refused(inputs: PromotionInputs, tmp_path: Path) -> None:
    write_json(inputs.evaluation / "gate.json", {"decision": "hold", "candidate": "rft", "reasons": []})
    with pytest.raises(ArtifactError, match="hold"):
        promoted(inputs, tmp_path)


def test_a_damaged_base_is_refused(inputs: PromotionInputs, tmp_path: Path) -> None:
    (inputs.base / "weights").write_text("other size")
    with pytest.raises(ArtifactError, match="weights is 10 bytes"):
        promoted(inputs, tmp_path)


def test_the_alias_moves_and_both_versions_say_so(
    inputs: PromotionInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("PIXELIS_MLFLOW_ARTIFACTS", (tmp_path / "mlartifacts").as_uri())
    model, report = promoted(inputs, tmp_path)
    digest = tree_digest(model)
    for run in ("run-1", "run-2"):
        record = StepRecord(step="promotion", run_id=run, status="SUCCEEDED")
        record.outputs["model"] = ArtifactRecord(str(model), digest, "synthetic", run, "promotion")
        register(model, inputs.evaluation, record, report)
        assert report.facts["version"] == record.facts["version"]
        assert tree_digest(model) == digest, "the service names what it serves by this digest"
    champion = tracking.champion("pixelis-twin", "champion")
    assert champion.tags["model_digest"] == digest
    assert str(champion.version) == "2"
    assert champion.tags["lineage.clips"] == read_json(model / "promotion.json")["lineage"]["clips"]["sha256"]
    assert "promoted" in tracking.client().get_registered_model("pixelis-twin").description
    first = tracking.client().get_model_version("pixelis-twin", "1")
    assert "moved to version 2 by run run-2" in first.tags["alias.champion"]


def test_the_champions_evaluation_is_found_again(
    inputs: PromotionInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("PIXELIS_MLFLOW_ARTIFACTS", (tmp_path / "mlartifacts").as_uri())
    section = PromotionConfig().model_dump()
    assert tracking.champion_evaluation(section, inputs.recordings, tmp_path / "none") is None
    model, report = promoted(inputs, tmp_path)
    record = StepRecord(step="promotion", run_id="run-1", status="SUCCEEDED")
    record.outputs["model"] = ArtifactRecord(str(model), "0" * 64, "synthetic", "run-1", "promotion")
    register(model, inputs.evaluation, record, report)
    found = tracking.champion_evaluation(section, inputs.recordings, tmp_path / "found")
    assert found is not None
    assert read_json(found / "gate.json")["decision"] == "promote"

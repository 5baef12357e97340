"""Bringing a model from an S3-compatible store: whole, checked, once, and never a wrong one in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.shared.runtime.artifacts import tree_digest
from components.shared.runtime.errors import ArtifactError, ConfigError, EnvironmentFault
from components.shared.runtime.records import ArtifactRecord, StepRecord, write_artifact_record
from components.shared.runtime.stores import inside
from components.ttrl.fetch import CURRENT, fetch, main

BUCKET = "mlpipeline"


def promoted(folder: Path, store: Any, name: str, text: str) -> tuple[str, str]:
    """A model folder with its record, uploaded; returns its address and digest."""
    source = folder / name
    (source / "base").mkdir(parents=True)
    (source / "promotion.json").write_text(text)
    (source / "base" / "weights.bin").write_bytes(text.encode() * 1000)
    digest = tree_digest(source)
    record = StepRecord(step="promotion", run_id="r", started=0.0, pid=1)
    record.outputs["model"] = ArtifactRecord(str(source), digest, "synthetic", "r", "promotion")
    write_artifact_record(source, record, "model")
    for path in source.rglob("*"):
        if path.is_file():
            store.upload_file(str(path), BUCKET, f"v2/{name}/{path.relative_to(source).as_posix()}")
    return f"minio://{BUCKET}/v2/{name}", digest


def test_a_model_arrives_whole_and_current_names_it(store: Any, tmp_path: Path) -> None:
    uri, digest = promoted(tmp_path / "a", store, "whole", "{}")
    volume = tmp_path / "volume"
    volume.mkdir()
    target = fetch(uri, digest, volume)
    assert target == volume / digest
    assert (volume / CURRENT).resolve() == target
    assert tree_digest(volume / CURRENT) == digest


def test_a_model_that_is_here_is_not_fetched_again(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, digest = promoted(tmp_path / "a", store, "again", "{}")
    fetch(uri, digest, tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert fetch(uri, digest, tmp_path) == tmp_path / digest


@pytest.mark.parametrize("digest", ["", "latest", "../elsewhere"])
def test_a_digest_that_is_none_touches_nothing(store: Any, tmp_path: Path, digest: str) -> None:
    uri, right = promoted(tmp_path / "a", store, "unnamed", "{}")
    volume = tmp_path / "volume"
    fetch(uri, right, volume)
    with pytest.raises(ConfigError, match="PIXELIS_MODEL_SHA256"):
        fetch(uri, digest, volume)
    assert tree_digest(volume / CURRENT) == right


def test_a_model_with_other_content_never_becomes_current(store: Any, tmp_path: Path) -> None:
    uri, digest = promoted(tmp_path / "a", store, "good", "{}")
    fetch(uri, digest, tmp_path)
    other, _ = promoted(tmp_path / "b", store, "changed", '{"a": 1}')
    with pytest.raises(ArtifactError, match="as promoted"):
        fetch(other, "0" * 64, tmp_path)
    assert (tmp_path / CURRENT).resolve() == tmp_path / digest
    assert not list(tmp_path.glob(".part-*"))


def test_a_damaged_copy_is_fetched_again(store: Any, tmp_path: Path) -> None:
    uri, digest = promoted(tmp_path / "a", store, "damaged", "{}")
    fetch(uri, digest, tmp_path)
    (tmp_path / digest / "base" / "weights.bin").write_bytes(b"")
    fetch(uri, digest, tmp_path)
    assert tree_digest(tmp_path / digest) == digest


def test_the_last_two_models_stay(store: Any, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    digests = []
    for number in range(3):
        uri, digest = promoted(tmp_path / str(number), store, f"kept{number}", f'{{"n": {number}}}')
        fetch(uri, digest, volume)
        digests.append(digest)
    assert {path.name for path in volume.iterdir()} == {CURRENT, *digests[1:]}


def test_without_a_promoted_model_there_is_no_current(tmp_path: Path) -> None:
    (tmp_path / CURRENT).symlink_to("gone")
    assert fetch("", "", tmp_path) is None
    assert not (tmp_path / CURRENT).is_symlink()


def test_an_empty_prefix_and_a_missing_bucket_are_named(store: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nothing is stored"):
        fetch(f"s3://{BUCKET}/v2/none", "0" * 64, tmp_path)
    with pytest.raises(EnvironmentFault, match=r"no-such-bucket.*pixelis-model-store"):
        fetch("s3://no-such-bucket/v2", "0" * 64, tmp_path)


@pytest.mark.parametrize("uri", ["http://bucket/x", "/minio/x", "s3:///x"])
def test_other_addresses_are_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="s3://bucket"):
        fetch(uri, "0" * 64, tmp_path)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", ""])
def test_names_that_lead_out_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="leads out"):
        inside(tmp_path / "in", name)


def test_the_init_containers_command(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, digest = promoted(tmp_path / "a", store, "command", "{}")
    monkeypatch.setenv("PIXELIS_MODEL_URI", uri)
    monkeypatch.setenv("PIXELIS_MODEL_SHA256", digest)
    assert main(["--into", str(tmp_path)]) == 0
    assert (tmp_path / CURRENT / "promotion.json").exists()
    monkeypatch.setenv("PIXELIS_MODEL_SHA256", "0" * 64)
    assert main(["--into", str(tmp_path)]) == ArtifactError.exit_code


def test_mlflows_init_container_makes_the_bucket_once(store: Any) -> None:
    """The script in the manifest itself, run against the store."""
    import subprocess
    import sys

    from pipelines.kustomize import read_objects

    manifest = Path(__file__).parents[3] / "manifests" / "base" / "mlflow.yaml"
    deployment = next(item for item in read_objects(manifest) if item["kind"] == "Deployment")
    command = deployment["spec"]["template"]["spec"]["initContainers"][0]["command"]
    for _ in range(2):
        subprocess.run([sys.executable, *command[1:]], check=True)
    assert "pixelis-mlflow" in [bucket["Name"] for bucket in store.list_buckets()["Buckets"]]

"""Folders in an object store, against real servers with the interface of S3 and of Google storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.shared.runtime.errors import ArtifactError, ConfigError, EnvironmentFault
from components.shared.runtime.stores import (
    exists,
    fetch_folder,
    find,
    inside,
    is_address,
    listing_digest,
    object_uri,
    put_folder,
    remove_folder,
    written,
)

BUCKET = "mlpipeline"


def folder(place: Path) -> Path:
    (place / "deep" / "er").mkdir(parents=True)
    (place / "a.txt").write_text("a")
    (place / "empty").write_text("")
    (place / "deep" / "er" / "b c+é.bin").write_bytes(bytes(range(256)) * 100)
    return place


def contents(place: Path) -> dict[str, bytes]:
    return {p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*") if p.is_file()}


SCHEMES = pytest.mark.parametrize("scheme", ["s3", "minio", "gs"])
pytestmark = pytest.mark.usefixtures("google")


@SCHEMES
def test_a_folder_comes_back_as_it_went(store: Any, tmp_path: Path, scheme: str) -> None:
    source, uri = folder(tmp_path / "source"), f"{scheme}://{BUCKET}/there/{scheme}"
    assert put_folder(source, uri) == (3, 25601)
    assert exists(uri)
    assert fetch_folder(uri + "/", tmp_path / "back") == (3, 25601)
    assert contents(tmp_path / "back") == contents(source)


def test_a_whole_bucket_is_a_folder_too(store: Any, tmp_path: Path) -> None:
    store.create_bucket(Bucket="alone")
    put_folder(folder(tmp_path / "source"), "s3://alone")
    fetch_folder("s3://alone", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(tmp_path / "source")


@SCHEMES
def test_a_neighbour_with_a_longer_name_stays_out(store: Any, tmp_path: Path, scheme: str) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "x").write_text("mine")
    put_folder(tmp_path / "one", f"{scheme}://{BUCKET}/near/data")
    put_folder(tmp_path / "one", f"{scheme}://{BUCKET}/near/data-old")
    assert fetch_folder(f"{scheme}://{BUCKET}/near/data", tmp_path / "back") == (1, 4)


def test_more_objects_than_a_page_of_the_listing(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
    for number in range(8):
        store.put_object(Bucket=BUCKET, Key=f"many/{number}", Body=b"x")
    assert store.list_objects_v2(Bucket=BUCKET, Prefix="many/")["IsTruncated"], "the listing must come in pages"
    assert fetch_folder(f"s3://{BUCKET}/many", tmp_path) == (8, 8)


def test_the_empty_object_that_stands_for_a_folder_is_no_file(store: Any, tmp_path: Path) -> None:
    store.put_object(Bucket=BUCKET, Key="marked/", Body=b"")
    store.put_object(Bucket=BUCKET, Key="marked/x", Body=b"1")
    assert fetch_folder(f"s3://{BUCKET}/marked", tmp_path) == (1, 1)


@SCHEMES
def test_what_is_written_again_replaces_and_what_is_removed_is_gone(store: Any, tmp_path: Path, scheme: str) -> None:
    uri, seen = f"{scheme}://{BUCKET}/again", []
    for text in ("one", "two"):
        (tmp_path / "x").write_text(text)
        put_folder(tmp_path, uri)
        seen.append((listing_digest(uri), written(find(uri)["x"])))
    assert seen[0][0] != seen[1][0], "the same name and size, other content"
    assert seen[0][1] <= seen[1][1]
    fetch_folder(uri, tmp_path / "back")
    assert (tmp_path / "back" / "x").read_text() == "two"
    remove_folder(uri)
    remove_folder(uri)
    assert not exists(uri)


@SCHEMES
def test_nothing_there_and_a_missing_bucket_are_named(store: Any, tmp_path: Path, scheme: str) -> None:
    with pytest.raises(ArtifactError, match=f"nothing is stored under {scheme}://{BUCKET}/none"):
        fetch_folder(f"{scheme}://{BUCKET}/none", tmp_path)
    with pytest.raises(EnvironmentFault, match="no-such-bucket"):
        fetch_folder(f"{scheme}://no-such-bucket/x", tmp_path)


def test_a_silent_store_is_named(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(EnvironmentFault, match="cannot be read"):
        fetch_folder(f"s3://{BUCKET}/none", tmp_path)


def test_an_object_whose_name_leads_out_is_refused_before_anything_is_written(store: Any, tmp_path: Path) -> None:
    store.put_object(Bucket=BUCKET, Key="evil/a", Body=b"1")
    store.put_object(Bucket=BUCKET, Key="evil/../../out", Body=b"1")
    with pytest.raises(ArtifactError, match="leads out"):
        fetch_folder(f"s3://{BUCKET}/evil", tmp_path / "in")
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", ""])
def test_names_that_lead_out_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="leads out"):
        inside(tmp_path / "in", name)


@pytest.mark.parametrize("uri", ["http://bucket/x", "file:///etc", "/minio/x", "s3:///x", "s3:/x"])
def test_other_addresses_are_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="s3://bucket"):
        fetch_folder(uri, tmp_path)


def test_what_kfp_shows_under_a_path_has_an_address() -> None:
    assert object_uri(Path("/minio/mlpipeline/v2/x")) == "minio://mlpipeline/v2/x"
    assert object_uri(Path("/gcs/b/x")) == "gs://b/x"
    assert is_address("s3://b") and not is_address("/data/a:b")
    with pytest.raises(ConfigError, match="not in an object store"):
        object_uri(Path("/tmp/x"))

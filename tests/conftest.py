"""Fixtures that tests of several parts share: real servers of object stores, the container engine of this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BUCKET = "mlpipeline"


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """A real HTTP server with the S3 interface."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the server, with a bucket; the environment names the server as a pod's does."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": s3_address,
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "key",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture(scope="session")
def google_address() -> Iterator[str]:
    """A real HTTP server with Google storage's interface."""
    from gcp_storage_emulator.server import create_server

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def google(google_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names the server; nobody's own credentials are looked for."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", google_address)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "no-gcloud"))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """The container engine, with this commit's images.

    Without them: skipped with the reason, failed under `make e2e-docker`.
    """
    from components.shared.runtime.errors import EnvironmentFault
    from pipelines import engine
    from pipelines.config import compose

    try:
        found = engine.engine()
        engine.check_images(found, compose("twin", (), {}))
    except EnvironmentFault as fault:
        (pytest.fail if "PIXELIS_DOCKER_REQUIRED" in os.environ else pytest.skip)(str(fault))
    yield found
    found.close()

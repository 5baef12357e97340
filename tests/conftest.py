"""Fixtures that tests of several steps share: a real object store on this machine."""

from __future__ import annotations

from collections.abc import Iterator
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
